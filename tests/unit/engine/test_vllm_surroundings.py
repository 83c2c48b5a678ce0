"""What vLLM's processes find around them: nothing of torchrun, the device of their rank, and no life of their own."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import spawn
from pathlib import Path

import psutil
import pytest

from spawned import tell_surroundings
from turnwise.engine.vllm import surroundings
from turnwise.engine.vllm.process import SOURCE_ROOT, free_port
from turnwise.engine.vllm.surroundings import around_children, environment
from turnwise.ranks import ALONE, Ranks

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
    "GROUP_RANK": "1",
    "ROLE_NAME": "default",
    "TORCHELASTIC_RUN_ID": "7",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SECOND = Ranks(index=3, count=4, local_index=1, local_count=2)


def test_nothing_of_torchrun_is_left_and_all_else_is() -> None:
    for ranks in (ALONE, SECOND):
        own = environment({**TORCHRUN, "HOME": "/home/me", "OMP_NUM_THREADS": "1"}, ranks, num_gpus=2)
        assert own.keys() - {"CUDA_VISIBLE_DEVICES"} == {"HOME", "OMP_NUM_THREADS"}


@pytest.mark.parametrize(
    ("visible", "expected"),
    [({}, "1"), ({"CUDA_VISIBLE_DEVICES": "4, 7"}, "7"), ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, "GPU-b")],
)
def test_a_rank_has_a_gpu_of_its_own(visible: dict[str, str], expected: str) -> None:
    assert environment(visible, SECOND, num_gpus=2)["CUDA_VISIBLE_DEVICES"] == expected
    assert environment(visible, ALONE, num_gpus=2) == visible, "alone it has what there is"


def test_ranks_without_a_gpu_share_the_processors_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings.os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 11})

    def bound(local_count: int) -> list[str]:
        ranks = [Ranks(count=local_count, local_index=rank, local_count=local_count) for rank in range(local_count)]
        return [environment({}, one, num_gpus=0)["VLLM_CPU_OMP_THREADS_BIND"] for one in ranks]

    assert bound(2) == ["2,3", "5,7,11"]
    assert bound(5) == ["2", "3", "5", "7", "11"]
    assert bound(6) == ["2", "2", "3", "5", "7", "11"]
    told = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    assert environment(told, SECOND, num_gpus=0) == told, "who has chosen is obeyed"


def test_no_two_ranks_of_a_machine_find_the_same_port() -> None:
    for rank in range(3):
        ports = [free_port(Ranks(count=3, local_index=rank, local_count=3)) for _ in range(20)]
        assert {port // 2 % 3 for port in ports} == {rank}


def test_children_are_started_so_and_the_trainer_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    before, executable = dict(os.environ), spawn.get_executable()
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[dict[str, str | int]] = context.Queue()
    with around_children():
        child = context.Process(target=tell_surroundings, args=(queue,))
        child.start()
    told = queue.get(timeout=60)
    child.join()
    assert TORCHRUN.keys() & told.keys() == set()
    assert told["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert (told["session"], told["parent"]) == (child.pid, os.getpid()), "signals to our group are not for it"
    assert os.environ == before
    assert spawn.get_executable() == executable


TRAINER = """
import multiprocessing, sys, time
from turnwise.engine.vllm.surroundings import around_children
if __name__ == "__main__":
    with around_children():
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        child.start()
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_with_the_trainer(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "trainer.py").write_text(TRAINER)
    trainer = subprocess.Popen(
        [sys.executable, str(tmp_path / "trainer.py")],
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert trainer.stdout is not None
    child = psutil.Process(int(trainer.stdout.readline()))
    assert child.is_running()
    trainer.send_signal(number)
    assert trainer.wait() == -number
    until = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
