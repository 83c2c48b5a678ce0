"""Bounds on all programs together, by control groups: where this user may make one, and nowhere else."""

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path

from turnwise.env.sandbox.isolation import MAX_PROGRAMS
from turnwise.env.sandbox.settings import Settings

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
ROOM_MB = 1024
"""What the zygotes and idle sessions take beside the programs that run."""
CLOSE_S, POLL_S = 2.0, 0.01
"""How long the last processes of a group may take to end, and how often it is looked whether they have."""
LIMITS = {"memory": ("memory.max", "memory.limit_in_bytes"), "pids": ("pids.max", "pids.max")}
"""By controller, the file of its limit in versions 2 and 1."""


class Cgroup:
    """A group below that of this process, for each controller that can be had; version 1 has one group each."""

    def __init__(self, settings: Settings) -> None:
        name = _name(os.getpid())
        self._settings = settings
        values = {
            "memory": (settings.total_memory_mb or default_memory_mb(settings)) << 20,
            "pids": settings.num_workers * (1 + settings.max_processes) + MAX_PROGRAMS,
        }
        self._groups: dict[str, Path] = {}
        self._memory_limit: Path | None = None
        for controller, limits in LIMITS.items():
            for version, parent in own_groups(controller):
                if version == 2:
                    _hand_down(parent, controller)
                group, limit = parent / name, limits[0 if version == 2 else 1]
                if _has_limit(group, limit, values[controller]):
                    self._groups[controller] = group
                    if controller == "memory":
                        self._memory_limit = group / limit
                    break
                if group not in self._groups.values():
                    _remove(group)
        log.info("sandbox: cgroup limits of %s", ", ".join(self._groups) or "nothing: none can be made here")

    @property
    def controllers(self) -> tuple[str, ...]:
        """What is bounded: memory, pids."""
        return tuple(self._groups)

    def add(self, pid: int) -> None:
        """Takes in a process; what it forks is in it too."""
        for group in self._groups.values():
            with contextlib.suppress(ProcessLookupError):
                (group / "cgroup.procs").write_text(str(pid))

    def allow(self, num_sessions: int) -> None:
        """Allows the memory that so many open sessions may have beside the programs that run, unless it is set."""
        if self._memory_limit is not None and not self._settings.total_memory_mb:
            with contextlib.suppress(OSError):  # a lower limit than what is in use
                self._memory_limit.write_text(str(default_memory_mb(self._settings, num_sessions) << 20))

    async def close(self) -> None:
        """Removes the groups when their processes have ended."""
        for _ in range(int(CLOSE_S / POLL_S)):
            for group in self._groups.values():
                _remove(group)
            if not any(group.exists() for group in self._groups.values()):
                break
            await asyncio.sleep(POLL_S)


def default_memory_mb(settings: Settings, num_sessions: int = 0) -> int:
    """What the programs that run and the open sessions may have at their limits: none suffers for another."""
    return (settings.num_workers + num_sessions) * (settings.memory_mb + settings.scratch_mb) + ROOM_MB


def own_groups(controller: str) -> list[tuple[int, Path]]:
    """Version and folder of the groups of this process that may have a controller."""
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for line in MEMBERSHIP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                found.append((1, ROOT / controllers / path.lstrip("/")))
            elif not controllers:
                found.append((2, ROOT / path.lstrip("/")))
    return found


def remove_groups(pid: int) -> None:
    """Removes what a process left behind that could not clean up after itself, started by this one."""
    groups = {parent / _name(pid) for controller in LIMITS for _, parent in own_groups(controller)}
    for _ in range(int(CLOSE_S / POLL_S)):
        for group in groups:
            _remove(group)
        if not any(group.exists() for group in groups):
            break
        time.sleep(POLL_S)  # its last processes are ending


def _name(pid: int) -> str:
    return f"turnwise-{pid}"


def _hand_down(group: Path, controller: str) -> None:
    """Has the groups below one of version 2 know a controller; the kernel refuses it where that holds processes."""
    with contextlib.suppress(OSError):
        (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _has_limit(group: Path, limit: str, value: int) -> bool:
    """Whether the group could be made and has this limit now."""
    with contextlib.suppress(OSError):
        group.mkdir(exist_ok=True)
        if os.access(group / limit, os.W_OK) and os.access(group / "cgroup.procs", os.W_OK):
            (group / limit).write_text(str(value))
            return True
    return False


def _remove(group: Path) -> None:
    with contextlib.suppress(OSError):
        group.rmdir()
