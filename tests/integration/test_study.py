"""Real studies of two arms and two seeds: the same problems from the same weights, every launcher, failure, Ctrl-C."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from integration_runs import Run
from turnwise.config.sweep import LAUNCHERS
from turnwise.study.runs import read_study
from turnwise.tracker.bundle import bundle_path, read_groups

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900
"""Of a study of four runs that take seconds each, on a machine that others keep busy."""
SMALL = ("trainer.device=cpu", "rollout.num_problems=2", "rollout.group_size=2", "evaluation.num_problems=4")


def driver(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "experiments/ablations.py"), "--out", str(out), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}


def study(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(driver(out, *arguments), env=environment(), capture_output=True, text=True)


def test_a_seed_means_the_same_problems_and_weights_in_every_arm(run: Run) -> None:
    """Arms that differ in reward, advantage and similarity, and the same arm with another seed."""
    gtpo = run("ablation=gtpo", folder="gtpo")
    grpo = run("ablation=grpo", folder="grpo")
    other = run("ablation=grpo", "seed=1", folder="other")

    def problems(run_dir: Path) -> list[tuple[str, str]]:
        """Id and prompt of every problem of every step, in order."""
        groups = [scored.group for step in range(3) for scored, _ in read_groups(bundle_path(run_dir, step))]
        return [(group.problem.id, str(group.problem.prompt)) for group in groups]

    def evaluation(run_dir: Path) -> dict[str, float]:
        """Every figure of the evaluation before the first step."""
        return json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])

    def first_samples(run_dir: Path) -> list[list[list[int]]]:
        """Token ids of step 0, sampled before any arm has learnt."""
        groups = [scored.group for scored, _ in read_groups(bundle_path(run_dir, 0))]
        return [[list(trajectory.token_ids) for trajectory in group.trajectories] for group in groups]

    assert len(set(problems(gtpo))) == 3 * 3, "three problems in each of three steps"
    assert problems(gtpo) == problems(grpo)
    assert evaluation(gtpo) == evaluation(grpo)
    assert evaluation(gtpo)["step"] == 0
    assert first_samples(gtpo) == first_samples(grpo), "the same weights and the same draws"
    assert problems(grpo) != problems(other)


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("launcher", ["basic", "joblib", "ray", "submitit_local"])
def test_a_study_by_every_launcher(tmp_path: Path, launcher: str) -> None:
    one = LAUNCHERS[launcher]
    if one.plugin and find_spec(f"hydra_plugins.{one.plugin}") is None:
        pytest.skip(f"needs the extra {one.extra}")
    out = tmp_path / "study"
    ended = study(out, "--arms", "gtpo,grpo", "--seeds", "2", "--steps", "1", "--launcher", launcher, *SMALL)
    assert ended.returncode == 0, ended.stdout + ended.stderr + (out / "study.log").read_text()
    there = read_study(out)
    assert [(one.seed, one.arm) for one in there.runs] == [(0, "gtpo"), (0, "grpo"), (1, "gtpo"), (1, "grpo")]
    assert "4 of 4 runs" in ended.stdout
    assert (out / "results.md").exists()


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_the_policies_of_a_study_on_benchmarks(tmp_path: Path) -> None:
    out = tmp_path / "study"
    small = [*SMALL[:-1], "evaluation.num_problems=24", "trainer.learning_rate=3e-3"]  # so that the policies differ
    ended = study(out, "--arms", "gtpo,grpo", "--seeds", "1", "--steps", "2", "--launcher", "basic", *small)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    words = ["evaluation.num_problems=24", "evaluation.tools=both", "trainer.device=cpu"]
    command = [sys.executable, str(ROOT / "experiments/benchmarks.py"), "--study", str(out), "--jobs", "2", *words]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    header, *lines = csv.reader((out / "benchmarks/benchmarks.csv").read_text().splitlines())
    accuracy = {(name, arm): float(value) for name, arm, _, value, *_ in lines}
    assert header[:4] == ["set", "arm", "seed", "accuracy"]
    assert list(accuracy) == [
        (f"arithmetic{how}", arm) for arm in ("start", "gtpo", "grpo") for how in ("", "_without_tool")
    ]
    trained = {run.arm: run for run in read_study(out).runs}
    assert accuracy["arithmetic", "start"] == trained["gtpo"].start
    assert {arm: accuracy["arithmetic", arm] for arm in trained} == {arm: run.final for arm, run in trained.items()}
    assert len({accuracy["arithmetic", arm] for arm in ("start", *trained)}) > 1
    told = (out / "benchmarks/benchmarks.md").read_text()
    assert "arithmetic, no tool" in told
    assert (out / "benchmarks/examples.md").read_text().count("**start**") == 6  # three problems, both ways


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.skipif(find_spec("sentence_transformers") is not None, reason="the arm that should fail would not")
def test_an_arm_that_fails_is_named_and_the_others_finish(tmp_path: Path) -> None:
    arguments = ["--arms", "similarity_embedding,gtpo", "--seeds", "1", "--steps", "1", "--launcher", "basic", *SMALL]
    ended = study(tmp_path, *arguments)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    there = read_study(tmp_path)
    assert [one.arm for one in there.runs] == ["gtpo"]
    assert [one.arm for one in there.skipped] == ["similarity_embedding"]
    assert "sentence-transformers" in there.skipped[0].why
    assert f"no result: similarity_embedding, seed 0: {there.skipped[0].why}" in ended.stdout


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("launcher", ["basic", "joblib", "ray"])
def test_ctrl_c_saves_and_the_same_folder_goes_on(tmp_path: Path, launcher: str) -> None:
    one = LAUNCHERS[launcher]
    if one.plugin and find_spec(f"hydra_plugins.{one.plugin}") is None:
        pytest.skip(f"needs the extra {one.extra}")
    arguments = ["--arms", "gtpo,grpo", "--seeds", "1", "--steps", "12", "--launcher", launcher, *SMALL]
    command = driver(tmp_path, *arguments, "trainer.save_every=100")
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "gtpo_seed0/metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("rollout/accuracy") >= 2):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130, output
    assert f"stopped; to go on: make ablations ARGS='--out {tmp_path}'" in output
    why = {one.arm: one.why for one in read_study(tmp_path).skipped}["gtpo"]
    assert why.startswith("stopped after "), why
    assert (tmp_path / "gtpo_seed0/checkpoints/last/model.safetensors").exists()

    ended = study(tmp_path, "--launcher", "basic")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(read_study(tmp_path).runs) == 2
    starts = json.loads((tmp_path / "gtpo_seed0/config.json").read_text())["starts"]
    assert len(starts) == 2
