"""What becomes of memory that PyTorch frees on a CPU."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Options of glibc's `mallopt`, from malloc.h."""


def keep_freed_memory() -> bool:
    """Has glibc keep freed memory for the next tensor; whether that could be done.

    By default it gives large blocks back to the system with every `free`, and the system clears each page anew when the
    next tensor is written: for an update some hundred thousand pages. One arena for all threads, since the others
    cannot grow so. The peak of a process's memory stays what it is; after it the process does not shrink.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    options = ((M_TRIM_THRESHOLD, -1), (M_MMAP_MAX, 0), (M_ARENA_MAX, 1))
    return all(libc.mallopt(option, value) for option, value in options)
