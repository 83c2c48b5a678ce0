"""Runs of two processes, each with a vLLM of its own: they agree, end together, and leave nothing behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from integration_runs import lines
from several_ranks import MAIN, ended, started
from turnwise.report.summary import Outcome, read_summary
from vllm_engines.test_runs import OVERRIDES, alive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
RUN = ("trainer=fsdp", "debug=fast", "rollout.num_problems=2", "evaluation.num_problems=4")
START_S = 600


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    pytest.importorskip("vllm.engine.arg_utils", reason="vLLM is not installed here: make test-vllm")
    yield
    assert list(Path("/dev/shm").glob(f"turnwise_{os.getuid()}")) == []


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(MAIN)]
    return subprocess.run([*launcher, *arguments], capture_output=True, text=True, check=False)


def descendants(processes: list[subprocess.Popen[str]]) -> list[psutil.Process]:
    return [one for process in processes for one in psutil.Process(process.pid).children(recursive=True)]


def wait_for(condition: Callable[[], object], processes: list[subprocess.Popen[str]]) -> None:
    until = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < until
        assert all(one.poll() is None for one in processes), ended(processes)
        time.sleep(0.1)


def of_vllm(processes: list[subprocess.Popen[str]]) -> list[psutil.Process]:
    """Those that call themselves so, as vLLM's scheduler and its worker do."""
    return [one for one in descendants(processes) if "VLLM" in called(one)]


def called(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


@contextmanager
def ranks(*arguments: str, of_rank: dict[int, list[str]] | None = None) -> Iterator[list[subprocess.Popen[str]]]:
    """Two, which end with the test."""
    processes = started(2, *RUN, *OVERRIDES["vllm"], *arguments, of_rank=of_rank)
    try:
        yield processes
    finally:
        for one in processes:
            one.kill()


@pytest.mark.parametrize("option", OVERRIDES)
def test_two_ranks_train_and_evaluate_with_a_vllm_each(option: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = torchrun(*RUN, *OVERRIDES[option], "trainer.num_steps=2", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    trained = [row for row in lines(folder) if "mismatch/log_ratio_max" in row]
    assert len(trained) == 2
    assert all(row["mismatch/log_ratio_max"] < 2e-4 for row in trained)
    if option == "vllm":
        chosen = (*RUN[1:], *OVERRIDES[option], f"model.path={folder}/checkpoints/last")
        done = torchrun("mode=evaluate", *chosen, f"hydra.run.dir={tmp_path / 'evaluation'}")
        assert done.returncode == 0, done.stderr
        (row,) = lines(tmp_path / "evaluation")
        assert row["eval/arithmetic/accuracy"] == lines(folder)[-1]["eval/arithmetic/accuracy"]


def test_a_rank_that_is_killed_leaves_no_vllm(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with ranks("trainer.num_steps=1000", f"hydra.run.dir={folder}") as processes:
        wait_for((folder / "checkpoints" / "step_1").exists, processes)
        assert len(of_vllm(processes)) == 4, "a scheduler and a worker each"
        everything = descendants(processes)
        processes[1].kill()
        (code, _, errors), _ = ended(processes)
        assert code == 1, errors
        assert alive(everything, within_s=30) == []


def test_a_rank_that_is_ended_while_its_vllm_starts_leaves_none(tmp_path: Path) -> None:
    with ranks(f"hydra.run.dir={tmp_path / 'run'}") as processes:
        wait_for(lambda: len(of_vllm(processes)) >= 2, processes)
        everything = descendants(processes)
        processes[0].terminate()  # as torchrun does when another rank has failed
        processes[1].kill()
        ended(processes)
        assert alive(everything, within_s=30) == []


def test_sigterm_leaves_a_checkpoint_and_no_vllm(tmp_path: Path) -> None:
    """torchrun sends it to the whole group of a rank, so vLLM's processes may not be in it."""
    folder = tmp_path / "run"
    with ranks("trainer.num_steps=1000", f"hydra.run.dir={folder}") as processes:
        wait_for((folder / "checkpoints" / "step_1").exists, processes)
        everything = descendants(processes)
        assert all(os.getpgid(one.pid) != os.getpgid(processes[0].pid) for one in of_vllm(processes))
        for one in processes:
            one.terminate()
        results = ended(processes)
        assert [code for code, *_ in results] == [0, 0], results
        assert read_summary(folder).outcome is Outcome.stopped
        assert alive(everything, within_s=30) == []


def test_a_vllm_that_cannot_start_on_one_rank_ends_all_with_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    too_much = ["engine.kv_cache_mib=100000000"]
    with ranks(f"hydra.run.dir={folder}", of_rank={1: too_much}) as processes:
        results = ended(processes, timeout_s=START_S)
    assert [code for code, *_ in results] == [2, 2], results
    (line,) = [line for line in results[0][2].splitlines() if line.startswith("error: ")]
    assert line.startswith("error: rank 1: engine=vllm: vLLM did not start: ")
    assert not folder.exists(), "nothing began"
