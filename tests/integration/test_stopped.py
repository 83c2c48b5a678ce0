"""Runs that are told to stop: what they save, how they end, and that they go on as if they never had."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration_runs import IN_PROCESS, SMALL, Run, assert_same_run
from killed_runs import PATIENCE_S, Starter
from turnwise import checkpoint
from turnwise.report.summary import read_summary

MAIN = Path(__file__).parents[2] / "src" / "main.py"
WITH_TOOL = ("evaluation.num_problems=4", "trainer.num_steps=4", "trainer.save_every=100")
SETTINGS = (*IN_PROCESS, *WITH_TOOL)


def tell(pid: int, number: signal.Signals) -> None:
    os.killpg(pid, number)


@pytest.mark.parametrize(("kind", "number"), [("sample", 3), pytest.param("update", 2, marks=pytest.mark.slow)])
def test_sigterm_saves_the_last_finished_step_and_ends_with_0(
    start: Starter, tmp_path: Path, whole: Run, kind: str, number: int
):
    run_dir = tmp_path / "stopped"
    run = start((*SMALL, *SETTINGS), run_dir)
    assert run.wait_for(kind, number)
    assert run.kill(signal.SIGTERM) == 0, run.output.read_text()
    printed = run.output.read_text()
    assert "Traceback" not in printed
    assert "SIGTERM: stopping; another one ends it at once\n" in printed
    assert "Stopped after" in printed
    summary = read_summary(run_dir)
    assert summary.outcome == "stopped"
    assert 1 <= summary.total_steps < 4
    found = checkpoint.latest(run_dir / "checkpoints")
    assert found is not None
    assert found.name == f"step_{summary.total_steps}"

    again = start((*SMALL, *SETTINGS), run_dir)
    assert again.wait() == 0
    assert again.begun()[0] == summary.total_steps
    assert_same_run(whole(*SETTINGS), run_dir)


@pytest.mark.parametrize("second", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_second_signal_ends_it_at_once_and_tears_nothing(
    start: Starter, tmp_path: Path, whole: Run, second: signal.Signals
):
    run_dir = tmp_path / "stopped"
    run = start((*SMALL, *WITH_TOOL), run_dir)
    assert run.wait_for("sample", 2)
    tell(run.pid, signal.SIGINT)
    assert run.wait_for("save", 1), "the first signal has it save"
    assert run.kill(second) == -second, "it is ended by the signal, in the midst of saving"
    assert not (run_dir / "summary.json").exists()

    assert start((*SMALL, *WITH_TOOL), run_dir).wait() == 0
    assert_same_run(whole(*WITH_TOOL), run_dir)
    assert list(run_dir.rglob(".tmp-*")) == []


def test_a_signal_before_the_training_ends_it_quickly(start: Starter, tmp_path: Path):
    run_dir = tmp_path / "stopped"
    run = start((*SMALL, *SETTINGS), run_dir)
    deadline = time.monotonic() + PATIENCE_S
    while not run_dir.exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert run.kill(signal.SIGTERM) == -signal.SIGTERM
    assert not (run_dir / "checkpoints").exists()


@pytest.mark.slow
def test_sigterm_ends_an_evaluation_with_0_and_it_goes_on(start: Starter, tmp_path: Path):
    run_dir = tmp_path / "evaluation"
    settings = (*SMALL, "mode=evaluate", "evaluation.num_problems=12", "evaluation.wave_size=2")
    run = start(settings, run_dir)
    assert run.wait_for("sample", 4)
    assert run.kill(signal.SIGTERM) == 0, run.output.read_text()
    assert read_summary(run_dir).outcome == "stopped"
    again = start(settings, run_dir)
    assert again.wait() == 0
    kept = re.search(r"12 problems x 1 samples, (\d+) of them kept earlier", again.output.read_text())
    assert kept is not None
    assert int(kept[1]) >= 6


def test_ctrl_c_while_packages_are_imported_is_one_line(tmp_path: Path):
    command = [sys.executable, str(MAIN), f"hydra.run.dir={tmp_path / 'run'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE_S
        while "libtorch_cpu" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")


def test_a_run_that_goes_on_takes_back_later_evaluations(run: Run, tmp_path: Path):
    # The evaluation after the third step was the last, and there is none of it in a run of four.
    run(*IN_PROCESS, "evaluation.num_problems=4", "trainer.num_steps=3", "trainer.save_every=100", folder="parts")
    evaluations = tmp_path / "parts" / "evaluations" / "chain"
    assert (evaluations / "step_3.json").exists()
    run(*IN_PROCESS, "evaluation.num_problems=4", "trainer.num_steps=4", "trainer.save_every=100", folder="parts")
    names = sorted(path.name for path in evaluations.glob("step_*"))
    assert names == ["step_0.json", "step_2.json", "step_4.json"]
    assert len(list((evaluations / "groups").iterdir())) == 3
