"""The worker threads by which PyTorch computes on a CPU."""

import ctypes
import platform
from functools import cache
from pathlib import Path

import torch

OMP_PAUSE_SOFT = 1


def release_workers() -> bool:
    """Ends the workers that OpenMP keeps for the calling thread, which gets others when it needs them; whether it did.

    Each thread that computes has workers of its own. While there are more of them than processors, libgomp puts idle
    ones to sleep at once, and waking one takes longer than a small operation does: a pass that decodes is slowed down
    by the resting workers of another thread.
    """
    library = _openmp()
    return library is not None and library.omp_pause_resource_all(OMP_PAUSE_SOFT) == 0


@cache
def _openmp() -> ctypes.CDLL | None:
    """PyTorch's library, through which that of its OpenMP is found; None where neither is as in PyTorch's wheels."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if platform.system() != "Linux" or not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    return library if hasattr(library, "omp_pause_resource_all") else None
