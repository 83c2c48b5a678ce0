"""Real processes that meet as the ranks of one run, each on one thread, for the tests of what they do together."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from forks import forking
from turnwise.ranks import Ranks

MAIN = Path(__file__).parents[1] / "src" / "main.py"


def together(function: Callable[..., Any], num_ranks: int, folder: Path, *arguments: Any) -> list[Any]:
    """Calls `function(ranks, *arguments)` in as many new processes; what each returned, in their order.

    They are forks of one that has the imports behind it.

    Args:
        function: Of a module of the tests, so that a new process can import it.
        num_ranks: Processes.
        folder: Where they meet and leave their results.
        arguments: What can be pickled.
    """
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    meeting.mkdir(parents=True)
    with forking():
        start_processes(
            _rank, (num_ranks, str(meeting), function, arguments), nprocs=num_ranks, start_method="forkserver"
        )
    return [torch.load(meeting / f"{rank}.pt", weights_only=False) for rank in range(num_ranks)]


def _rank(index: int, num_ranks: int, meeting: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if num_ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}/file", rank=index, world_size=num_ranks)
    result = function(Ranks(index=index, count=num_ranks), *arguments)
    torch.save(result, Path(meeting) / f"{index}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


def environment_of(num_ranks: int) -> list[dict[str, str]]:
    """The variables by which each of the ranks of one start meets the others, as torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    meeting["LOCAL_WORLD_SIZE"] = str(num_ranks)
    return [
        {**meeting, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)
    ]


def started(
    num_ranks: int, *arguments: str, of_rank: dict[int, list[str]] | None = None
) -> list[subprocess.Popen[str]]:
    """The processes of `src/main.py` as torchrun would start them, which ends with 1 whatever they end with.

    Args:
        num_ranks: Processes.
        arguments: Of each.
        of_rank: Further ones of single ranks.
    """
    return [
        subprocess.Popen(
            [sys.executable, str(MAIN), *arguments, *(of_rank or {}).get(rank, [])],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, environment in enumerate(environment_of(num_ranks))
    ]


def ended(processes: list[subprocess.Popen[str]], timeout_s: float = 120) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each; whoever has not ended by then is killed and fails the test."""
    try:
        with ThreadPoolExecutor(len(processes)) as pool:  # all at once: a full pipe would hold one back
            texts = list(pool.map(lambda one: one.communicate(timeout=timeout_s), processes))
    finally:
        for one in processes:
            one.kill()
    return [(one.returncode, *text) for one, text in zip(processes, texts, strict=True)]
