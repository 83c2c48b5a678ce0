"""Counts what a sandbox could leave behind on a machine."""

import contextlib
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from turnwise.env.sandbox.cgroup import own_groups
from turnwise.env.sandbox.isolation import FIRST_USER

_seen: set[int] = set()
"""Processes that there were at some time: a control group has the number of its broker."""


def descendants() -> list[psutil.Process]:
    """Every process below this one, which has to adopt orphans."""
    return psutil.Process().children(recursive=True)


def runs(pid: int) -> bool:
    """Whether there is such a process and it has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def census() -> dict[str, Any]:
    """What there is now, by kind; nothing of it depends on the moment."""
    processes = {one.pid: about for one in (psutil.Process(), *descendants()) if (about := _about(one)) is not None}
    _seen.update(processes)
    return {
        **{kind: {pid: about[kind] for pid, about in processes.items()} for kind in ("names", "descriptors", "mounts")},
        "files": sorted(str(path) for path in Path(tempfile.gettempdir()).rglob("*")),
        "cgroups": sorted(
            str(group)
            for controller in ("memory", "pids")
            for _, parent in own_groups(controller)
            for pid in _seen
            if (group := parent / f"turnwise-{pid}").exists()
        ),
        "System V": {kind: _ipc(kind) for kind in ("shm", "sem", "msg")},
        "shared memory": sorted(str(path) for path in Path("/dev/shm").glob("*") if _is_ours(path.lstat().st_uid)),
    }


def _about(process: psutil.Process) -> dict[str, Any] | None:
    """What one process has; None where it has just gone."""
    with contextlib.suppress(psutil.NoSuchProcess, OSError):  # one that ends has no mounts: EINVAL
        if process.status() == psutil.STATUS_ZOMBIE:
            return {"names": f"{process.name()}, a zombie", "descriptors": {}, "mounts": []}
        mounts = Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
        return {"names": process.name(), "descriptors": _descriptors(process.pid), "mounts": mounts}
    return None


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is other than it was: kind to what there was before and is now."""
    return {kind: {"before": before[kind], "after": after[kind]} for kind in before if before[kind] != after[kind]}


def _descriptors(pid: int) -> dict[str, int]:
    """Descriptors by kind: where each leads to differs."""
    kinds: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            kinds[os.readlink(link).partition(":")[0]] += 1  # noqa: PTH115
    kinds.pop(f"/proc/{pid}/fd", None)
    return dict(kinds)


def _is_ours(user: int) -> bool:
    """Whether it is the number of this user, or of one that programs of root run as."""
    return user >= FIRST_USER or (user == os.getuid() and user != 0)


def _ipc(kind: str) -> list[str]:
    title, *lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
    column = title.split().index("uid")
    return [line for line in lines if _is_ours(int(line.split()[column]))]
