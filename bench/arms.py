"""Ways of doing the same work, timed in turns."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import NamedTuple

import torch

from peer_work import peak_mib
from rates import synchronise


class Arm(NamedTuple):
    """What one way took: seconds, and the most memory in MiB."""

    seconds: float
    peak_mib: float


def in_turns(arms: Mapping[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, Arm]:
    """Median seconds and peak memory of each arm, over rounds in which all take their turn; the first does not count.

    An arm that runs out of memory is named and left out.
    """
    turns: dict[str, list[Arm]] = defaultdict(list)
    waiting = dict(arms)
    for _ in range(rounds):
        for name, work in list(waiting.items()):
            try:
                turns[name].append(timed(work, device))
            except torch.OutOfMemoryError:
                print(f"  without {name}: out of memory", flush=True)
                del waiting[name]
            if device.type == "cuda" and name not in waiting:
                torch.cuda.empty_cache()
    counted = {name: turns[name][1:] for name in waiting}
    return {
        name: Arm(median(one.seconds for one in some), max(one.peak_mib for one in some))
        for name, some in counted.items()
    }


def timed(work: Callable[[], object], device: torch.device) -> Arm:
    """One call, until the device is done with it. On a CPU the memory is the most that the process ever held."""
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = perf_counter()
    work()
    synchronise(device)
    taken = perf_counter() - started
    return Arm(taken, torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_mib())
