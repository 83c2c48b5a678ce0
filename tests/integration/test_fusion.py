"""Runs whose programs go to a server: the same as with the local sandbox, and what the server fails is left out."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
import torch

from fusion_server import SANDBOX_ERROR, Fault, FusionServer, serving
from integration_runs import Run, lines, weights
from turnwise.config.errors import ConfigError
from turnwise.report.summary import Outcome, read_summary
from turnwise.tracker.bundle import bundle_path, read_groups

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[FusionServer]:
    with serving() as server:
        yield server


def fusion(server: FusionServer) -> tuple[str, ...]:
    return ("env/sandbox=fusion", f"env.sandbox.url={server.url}", "env.sandbox.retry_s=0.01")


def test_a_run_is_the_same_wherever_its_programs_run(run: Run, server: FusionServer):
    few = ("trainer.num_steps=1", "rollout.num_problems=2", "evaluation.num_problems=4")
    local = run(*few, folder="local")
    remote = run(*few, *fusion(server), folder="remote")
    assert len(server.requests) > 8
    where = ("tool/isolation", "eval/arithmetic/protocol")  # another sandbox has limits of its own
    figures = [
        [{name: value for name, value in line.items() if name not in where} for line in lines(run_dir)]
        for run_dir in (local, remote)
    ]
    assert figures[0] == figures[1]
    left, right = weights(local), weights(remote)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_trajectories_that_the_server_failed_leave_statistics_and_loss(run: Run, server: FusionServer):
    # The probe, and the first evaluation with at most four calls; the failures are among the step's first calls.
    server.faults.extend([*[Fault()] * 7, *[SANDBOX_ERROR] * 3])
    in_order = ("env.sandbox.max_concurrency=1", "env.sandbox.max_retries=0")
    run_dir = run("trainer.num_steps=1", "evaluation.num_problems=1", *fusion(server), *in_order)
    pairs = [
        (trajectory, is_correct, advantages)
        for scored, rows in read_groups(bundle_path(run_dir, 0))
        for trajectory, is_correct, advantages in zip(scored.group.trajectories, scored.correct_G, rows, strict=True)
    ]
    failed = [pair for pair in pairs if pair[0].has_infrastructure_failure]
    counted = [pair for pair in pairs if not pair[0].has_infrastructure_failure]
    assert (len(failed), len(counted)) == (3, 9)
    assert not any(any(advantages) for _, _, advantages in failed)
    assert all(turn.trainer_logprobs is None for trajectory, _, _ in failed for turn in trajectory.turns)
    assert all(turn.trainer_logprobs is not None for trajectory, _, _ in counted for turn in trajectory.turns)
    (figures,) = (line for line in lines(run_dir) if "loss/value" in line)
    assert figures["stop/tool_infrastructure"] == figures["rollout/excluded"] == 3 / 12
    assert figures["rollout/accuracy"] == pytest.approx(fmean(is_correct for _, is_correct, _ in counted))


@pytest.mark.parametrize("mode", ["train", "evaluate", "warmstart"])
def test_a_server_that_is_not_there_is_told_before_anything_is_sampled(run: Run, tmp_path: Path, mode: str):
    with serving() as server:
        gone = fusion(server)
    with pytest.raises(ConfigError, match=r"env\.sandbox\.url=http.*: no SandboxFusion server runs Python there"):
        run(f"mode={mode}", "env.sandbox.max_retries=0", *gone)
    assert not list((tmp_path / "run").glob("metrics.jsonl"))


def test_a_server_that_breaks_ends_the_run_with_one_line_and_the_checkpoint_is_kept(
    server: FusionServer, tmp_path: Path
):
    server.faults.extend([Fault()] * 25)  # enough for an evaluation and the first step
    server.always = SANDBOX_ERROR
    arguments = ("debug=fast", *fusion(server), "env.sandbox.max_retries=0", f"hydra.run.dir={tmp_path / 'run'}")
    ended = subprocess.run(
        [sys.executable, str(ROOT / "src/main.py"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: the sandbox failed in 11 of the last ")
    assert "more than env.max_infrastructure_rate=0.05 of 200; most often (11 times): SandboxError" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stdout
    summary = read_summary(tmp_path / "run")
    assert summary.outcome is Outcome.failed
    assert "SandboxError: no cgroup is left" in summary.why
    assert (tmp_path / "run/checkpoints/last/model.safetensors").exists()
