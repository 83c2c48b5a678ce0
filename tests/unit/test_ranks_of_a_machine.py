"""What the ranks of one machine share of it: as much as there is, and each its part."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from turnwise.config import threads
from turnwise.config.threads import num_threads
from turnwise.engine.vllm.process import free_port
from turnwise.env.sandbox import local
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalSandbox
from turnwise.ranks import Ranks
from turnwise.reward import grading_pool
from turnwise.reward.grading import Grader

SOURCE = Path(__file__).parents[2] / "src"
MEETS = """
from turnwise.ranks import joined
with joined() as ranks:
    print(ranks.index, ranks.count, ranks.local_index, ranks.local_count)
"""

WAITS = """
import sys
from datetime import timedelta
from turnwise import ranks
ranks._SILENT_S, ranks._MEETING = 0.0, timedelta(seconds=float(sys.argv[1]))
with ranks.joined():
    pass
"""


def of_machine(local_count: int) -> list[Ranks]:
    return [Ranks(index=8 + rank, count=32, local_index=rank, local_count=local_count) for rank in range(local_count)]


@pytest.mark.parametrize(
    ("amount", "local_count", "parts"),
    [(7, 1, [7]), (8, 4, [2, 2, 2, 2]), (7, 3, [2, 2, 3]), (3, 4, [1, 1, 1, 1]), (1, 2, [1, 1])],
)
def test_parts_of_the_machine(amount: int, local_count: int, parts: list[int]) -> None:
    assert [ranks.part(amount) for ranks in of_machine(local_count)] == parts


def test_torchrun_says_how_many_share_the_machine(tmp_path: Path) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", MEETS],
        env={**os.environ, **place, **meeting},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "1", "2", "4"]


def one_of_two(rank: int, *, patience_s: float, **more: str) -> subprocess.Popen[str]:
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port(Ranks())), "PYTHONPATH": str(SOURCE)}
    return subprocess.Popen(
        [sys.executable, "-c", WAITS, str(patience_s)],
        env={**os.environ, **place, **meeting, **more},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_waits_says_so_and_heeds_ctrl_c(rank: int) -> None:
    with one_of_two(rank, patience_s=100) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith(f"rank {rank} waits for the others of WORLD_SIZE=2 at 127.0.0.1:")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=20) == -signal.SIGINT


@pytest.mark.parametrize("has_torchrun", [False, True])
def test_a_rank_does_not_wait_forever(has_torchrun: bool) -> None:
    agent, agents = None, {}
    if has_torchrun:  # whose own process keeps the place where they meet
        agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        agents = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(agent.port)}
    with one_of_two(0, patience_s=1, **agents) as waiting:
        _, said = waiting.communicate(timeout=60)
    assert "ValueError: the other processes of torchrun cannot be met: " in said


@pytest.mark.parametrize(
    ("wanted", "local_count", "variable", "expected"),
    [
        (3, 2, "1", 3),  # what is asked for
        (0, 1, "1", None),  # alone: torch's choice
        (0, 2, "1", 3),  # what torchrun sets; 6 processors
        (0, 2, None, 3),
        (0, 2, "4", None),  # what the user set, which torch heeds
        (0, 8, None, 1),
    ],
)
def test_threads_of_torch(
    wanted: int, local_count: int, variable: str | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "current", lambda: of_machine(local_count)[0])
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert num_threads(wanted) == (torch.get_num_threads() if expected is None else expected)


def test_sandboxes_share_programs_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_all(local_count: int, **settings: object) -> list[tuple[int, int]]:
        found = []
        for ranks in of_machine(local_count):
            monkeypatch.setattr(local, "current", lambda ranks=ranks: ranks)
            told = LocalSandbox(**settings).settings(Tier.unsafe)  # pyright: ignore[reportArgumentType]
            found.append((told.num_workers, told.total_memory_mb))
        return found

    assert of_all(1, num_workers=5, total_memory_mb=4096) == [(5, 4096)]
    assert of_all(2, num_workers=5, total_memory_mb=4096) == [(2, 2048), (3, 2048)]
    assert of_all(4, num_workers=2) == [(1, 0)] * 4
    one_for_all = {"num_workers": 5, "total_memory_mb": 4096, "socket": str(tmp_path / "socket")}
    assert of_all(2, **one_for_all) == [(5, 4096)] * 2
    refusal = (
        r"env\.sandbox\.total_memory_mb=4096: each of the 4 ranks of this machine has 1024 of it; expected 4352 or "
        r"more, which is env\.sandbox\.memory_mb and env\.sandbox\.scratch_mb for each, or one sandbox for all"
    )
    with pytest.raises(ValueError, match=refusal):  # 1024 MiB and 64 for each
        of_all(4, total_memory_mb=4096)


def test_grading_takes_a_part_of_the_processors_and_gives_the_same_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(rf"\sqrt{{{number**2}}}", str(number + number % 3)) for number in range(1, 9)]

    def verdicts(local_count: int) -> tuple[int, list[bool]]:
        grading_pool.close()
        monkeypatch.setattr(grading_pool, "current", lambda: of_machine(local_count)[0])
        monkeypatch.setattr(grading_pool.os, "sched_getaffinity", lambda _: set(range(4)))
        found = Grader(timeout_s=2 + local_count).grade_all(pairs)  # another question each time, so none is remembered
        assert grading_pool._pool.threads is not None
        return grading_pool._pool.threads._max_workers, found

    expected = [number % 3 == 0 for number in range(1, 9)]
    assert [verdicts(1), verdicts(2), verdicts(8)] == [(4, expected), (2, expected), (1, expected)]
    grading_pool.close()
