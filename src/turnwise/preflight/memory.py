"""What memory this machine has, and the most of it that a stretch of work took."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESETS_PEAK = "5"
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the container's memory, by version of control groups; without a limit a word, or more than there is."""
KIB = 1024


def total_bytes(device: torch.device) -> int:
    """Memory of a device; of a CPU what this container may use of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [path.read_text().strip() for path in _LIMITS if path.is_file()]
    return min([_meminfo("MemTotal"), *(int(limit) for limit in limits if limit.isdecimal())])


def free_bytes(device: torch.device) -> int:
    """Memory of a device that nobody uses; of a CPU what could be had without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_meminfo("MemAvailable"), total_bytes(device))


def _meminfo(name: str) -> int:
    return _kilobytes(Path("/proc/meminfo"), name)


def _kilobytes(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * KIB


@dataclass
class Peak:
    """In bytes; `is_of_process` where an earlier peak of the process could not be told apart."""

    num_bytes: int = 0
    is_of_process: bool = False


def resident_bytes(name: str = "VmRSS") -> int:
    """What this process holds in memory now; `VmHWM`: held at most."""
    return _kilobytes(_STATUS, name)


@contextmanager
def measured_peak(device: torch.device) -> Iterator[Peak]:
    """The peak of this process on `device` within the block: of PyTorch's tensors on CUDA, of all there is on a CPU."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        try:
            yield peak
        finally:
            peak.num_bytes = torch.cuda.max_memory_allocated(device)
        return
    try:
        _CLEAR.write_text(_RESETS_PEAK)
    except OSError:  # some containers do not let a process do so
        peak.is_of_process = True
    try:
        yield peak
    finally:
        peak.num_bytes = resident_bytes("VmHWM")
