"""Whole runs of the command line with the tiny policy, and what is left of their processes."""

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import psutil
import pytest

from integration_runs import lines
from vllm_engines.live import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
OVERRIDES = {
    "vllm": ("engine=vllm", "engine.enforce_eager=true", "engine.kv_cache_mib=256"),
    "vllm_server": ("engine=vllm_server", "engine.serve.enforce_eager=true", "engine.serve.kv_cache_mib=256"),
}


@pytest.fixture(autouse=True)
def needs_vllm() -> None:
    pytest.importorskip("vllm.engine.arg_utils", reason="vLLM is not installed here: make test-vllm")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def start(option: str, run_dir: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "src/main.py", "debug=fast", *OVERRIDES[option], f"hydra.run.dir={run_dir}", *overrides]
    with (run_dir.parent / "output").open("w") as output:  # a pipe would stay open with any process that is left
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True)


def said(run_dir: Path) -> str:
    return (run_dir.parent / "output").read_text()


def children(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def alive(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Those that still run after `within_s` seconds, at most."""
    end = time.monotonic() + within_s
    while left := [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    return left


def wait_for_first_step(process: "subprocess.Popen[str]", run_dir: Path) -> None:
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().strip()):
        assert process.poll() is None, said(run_dir)
        time.sleep(0.5)


@pytest.mark.parametrize("option", OVERRIDES)
def test_run_ends_well_and_engine_and_trainer_agree(option: str, run_dir: Path) -> None:
    process = start(option, run_dir, "trainer.num_steps=2")
    assert process.wait() == 0, said(run_dir)
    assert "Traceback" not in said(run_dir)
    trained = [row for row in lines(run_dir) if "mismatch/log_ratio_max" in row]
    assert len(trained) == 2
    for row in trained:
        assert row["mismatch/log_ratio_max"] < 2e-4
        assert row["mismatch/kl"] < 1e-8


def test_sleep_is_refused_where_vllm_cannot_sleep(run_dir: Path) -> None:
    assert not import_module("vllm.platforms").current_platform.is_sleep_mode_available()
    process = start("vllm", run_dir, "engine.sleep=true")
    assert process.wait() == 2, said(run_dir)
    assert "engine.sleep=true: vLLM can sleep on a GPU only, and this run is on a CPU" in said(run_dir)
    assert "Traceback" not in said(run_dir)
    assert not (run_dir / "metrics.jsonl").exists()


@pytest.mark.parametrize("option", OVERRIDES)
def test_a_run_that_is_killed_leaves_no_process(option: str, run_dir: Path) -> None:
    process = start(option, run_dir, "trainer.num_steps=1000")
    wait_for_first_step(process, run_dir)
    started = children(process)
    process.kill()
    process.wait()
    assert alive(started, within_s=30) == []


def test_ctrl_c_saves_the_finished_steps(run_dir: Path) -> None:
    process = start("vllm", run_dir, "trainer.num_steps=1000")
    wait_for_first_step(process, run_dir)
    started = children(process)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130, said(run_dir)
    assert (run_dir / "checkpoints" / "last").exists()
    assert alive(started, within_s=30) == []


@pytest.mark.parametrize("option", OVERRIDES)
def test_a_vllm_that_is_killed_ends_the_run_with_one_line(option: str, run_dir: Path) -> None:
    process = start(option, run_dir, "trainer.num_steps=1000", "trainer.save_every=1")
    wait_for_first_step(process, run_dir)
    started = children(process)
    (scheduler,) = [one for one in started if "VLLM::EngineCore" in " ".join(one.cmdline())]
    scheduler.kill()
    assert process.wait() == 1, said(run_dir)
    (line,) = [line for line in said(run_dir).splitlines() if line.startswith("error: ")]
    assert line.startswith("error: no vLLM is left to sample with: ")
    assert line.endswith("; once it works, the same command with this hydra.run.dir goes on")
    assert "\nTraceback" not in said(run_dir)  # vLLM's log has one of its own
    assert alive(started, within_s=30) == []
