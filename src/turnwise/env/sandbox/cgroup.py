"""Bounds on all programs together, by control groups: where this user may make one, and nowhere else."""

import asyncio
import contextlib
import logging
import os
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
        memory_mb = settings.total_memory_mb or default_memory_mb(settings)
        values = {
            "memory": memory_mb << 20,
            "pids": settings.num_workers * (1 + settings.max_processes) + MAX_PROGRAMS,
        }
        self._groups: dict[str, Path] = {}
        for controller, limits in LIMITS.items():
            for version, parent in own_groups(controller):
                group = parent / name
                if _has_limit(group, limits[0 if version == 2 else 1], values[controller]):
                    self._groups[controller] = group
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

    async def close(self) -> None:
        """Removes the groups when their processes have ended."""
        for _ in range(int(CLOSE_S / POLL_S)):
            for group in self._groups.values():
                _remove(group)
            if not any(group.exists() for group in self._groups.values()):
                break
            await asyncio.sleep(POLL_S)


def default_memory_mb(settings: Settings) -> int:
    """What as many programs as run at a time may have at their limits: no program suffers for another."""
    return settings.num_workers * (settings.memory_mb + settings.scratch_mb) + ROOM_MB


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
    for controller in LIMITS:
        for _, parent in own_groups(controller):
            _remove(parent / _name(pid))


def _name(pid: int) -> str:
    return f"turnwise-{pid}"


def _has_limit(group: Path, limit: str, value: int) -> bool:
    """Whether the group could be made and has this limit now."""
    with contextlib.suppress(OSError):
        group.mkdir(exist_ok=True)
        (group / limit).write_text(str(value))
        return os.access(group / "cgroup.procs", os.W_OK)
    return False


def _remove(group: Path) -> None:
    with contextlib.suppress(OSError):
        group.rmdir()
