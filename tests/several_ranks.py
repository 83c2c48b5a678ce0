"""Real processes that meet as the ranks of one run, each on one thread, for the tests of what they do together."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from turnwise.ranks import Ranks


def together(function: Callable[..., Any], num_ranks: int, folder: Path, *arguments: Any) -> list[Any]:
    """Calls `function(ranks, *arguments)` in as many new processes; what each returned, in their order.

    Args:
        function: Of a module of the tests, so that a new process can import it.
        num_ranks: Processes.
        folder: Where they meet and leave their results.
        arguments: What can be pickled.
    """
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    meeting.mkdir(parents=True)
    mp.spawn(_rank, args=(num_ranks, str(meeting), function, arguments), nprocs=num_ranks)
    return [torch.load(meeting / f"{rank}.pt", weights_only=False) for rank in range(num_ranks)]


def _rank(index: int, num_ranks: int, meeting: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if num_ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}/file", rank=index, world_size=num_ranks)
    result = function(Ranks(index=index, count=num_ranks), *arguments)
    torch.save(result, Path(meeting) / f"{index}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()
