"""Runs of two processes that are told to stop: one of them, all, or torchrun itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from integration_runs import SHARDED, assert_same_run, newest
from killed_runs import PATIENCE_S, Hold, KillableRun, Starter
from several_ranks import MAIN
from turnwise.report.summary import Outcome, read_summary

SETTINGS = (*SHARDED, "trainer.num_steps=4", "trainer.save_every=3")


@pytest.fixture(scope="module")
def whole(start: Starter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("ranks") / "whole"
    ends(start.ranks(2, SETTINGS, run_dir), 0)
    return run_dir


def ends(ranks: Sequence[KillableRun], code: int) -> None:
    codes = [one.wait() for one in ranks]
    assert codes == [code, code], [one.output.read_text() for one in ranks]


def held(start: Starter, run_dir: Path, hold: Hold, *ranks_held: int) -> list[KillableRun]:
    """Ranks of which some have stopped themselves."""
    ranks = start.ranks(2, SETTINGS, run_dir, hold=dict.fromkeys(ranks_held, hold))
    for rank in ranks_held:
        ranks[rank].wait_until_held()
    return ranks


def assert_stopped(run_dir: Path, steps: int) -> None:
    summary = read_summary(run_dir)
    assert (summary.outcome, summary.total_steps) == (Outcome.stopped, steps)
    assert newest(run_dir) == steps


SAMPLE, UPDATE, EVALUATE, PARTS = ("sample", 3), ("update", 2), ("evaluate", 2), ("parts", 1)
MOMENTS = {SAMPLE: 1, UPDATE: 2, EVALUATE: 2, PARTS: 3}
"""Where a run is told to stop, and the steps that it then has: a sampling is dropped, an update finished."""


@pytest.mark.parametrize(
    ("hold", "told"),
    [
        pytest.param(hold, told, marks=() if (hold, told) == (SAMPLE, (1,)) else pytest.mark.slow)
        for hold in MOMENTS
        for told in [(0,), (1,), (0, 1)]
    ],
)
def test_sigterm_to_any_of_them_saves_and_ends_all_with_0(
    start: Starter, tmp_path: Path, whole: Path, hold: Hold, told: tuple[int, ...]
):
    run_dir = tmp_path / "stopped"
    ranks = held(start, run_dir, hold, *told)
    for rank in told:
        ranks[rank].send(signal.SIGTERM)
    ends(ranks, 0)
    assert_stopped(run_dir, MOMENTS[hold])
    assert "Stopped after" in ranks[0].output.read_text()
    assert ranks[1].output.read_text() == "", "the first alone speaks"

    ends(again := start.ranks(2, SETTINGS, run_dir), 0)
    assert again[0].begun()[0] == MOMENTS[hold]
    assert_same_run(whole, run_dir)


@pytest.mark.slow
def test_a_second_signal_ends_them_at_once_and_tears_nothing(start: Starter, tmp_path: Path, whole: Path):
    run_dir = tmp_path / "stopped"
    ranks = start.ranks(2, SETTINGS, run_dir, hold={0: ("manifest", 1)})
    assert ranks[1].wait_for("sample", 3)
    for one in ranks:
        one.send(signal.SIGINT)
    ranks[0].wait_until_held()  # in the checkpoint that it was told to write
    for one in ranks:
        one.send(signal.SIGTERM)
    ends(ranks, -signal.SIGTERM)
    assert newest(run_dir) == 0
    assert list(run_dir.rglob(".tmp-*")), "it is half-written"
    assert not (run_dir / "summary.json").exists()

    ends(start.ranks(2, SETTINGS, run_dir), 0)
    assert_same_run(whole, run_dir)
    assert list(run_dir.rglob(".tmp-*")) == []


@pytest.mark.slow
def test_ctrl_c_to_all_is_130(start: Starter, tmp_path: Path):
    run_dir = tmp_path / "stopped"
    ranks = start.ranks(2, SETTINGS, run_dir)
    assert ranks[1].wait_for("sample", 3)
    for one in ranks:
        one.send(signal.SIGINT)
    ends(ranks, 130)
    assert read_summary(run_dir).outcome is Outcome.stopped


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("is_of_all", [False, True], ids=["torchrun alone", "all of the job"])
def test_a_signal_to_torchrun_saves(tmp_path: Path, whole: Path, number: signal.Signals, is_of_all: bool):
    # A scheduler sends it to every process of a job, so the ranks get it twice: torchrun passes it on.
    run_dir = tmp_path / "stopped"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(MAIN)]
    process = torchrun([*launcher, *SETTINGS, f"hydra.run.dir={run_dir}"])
    deadline = time.monotonic() + PATIENCE_S
    while not (run_dir / "groups" / "step_0.jsonl.gz").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for pid in [*([rank.pid for rank in psutil.Process(process.pid).children()] if is_of_all else []), process.pid]:
        os.kill(pid, number)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert read_summary(run_dir).outcome is Outcome.stopped, (output, errors)
    assert "Stopped after" in output
    assert newest(run_dir) == read_summary(run_dir).total_steps > 0

    again = torchrun([*launcher, *SETTINGS, f"hydra.run.dir={run_dir}"])
    again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0
    assert_same_run(whole, run_dir)


def torchrun(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
