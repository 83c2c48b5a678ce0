"""Notices what makes no progress, such as an engine, a tool or a reward that hangs, and writes down where it stands."""

import asyncio
import faulthandler
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple


class Work(StrEnum):
    """What can get stuck."""

    engine = "engine"
    tool = "tool"
    reward = "reward"
    update = "update"
    checkpoint = "checkpoint"


class Stuck(RuntimeError):
    """A kind of work made no progress for too long; the text says which, how long, and where the stacks are."""


class _Pace(NamedTuple):
    """How many pieces of a kind are under way, and when one last began or ended."""

    num_active: int
    moved_s: float


class Watch:
    """Keeps count of the work that is under way, at the cost of a lock and a clock for each piece of it.

    A kind of work is stuck when some of it is under way and for long none of it has begun or ended. A tool that hangs
    while others are called is noticed when these have come to their end and all wait for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paces: dict[Work, _Pace] = {}

    @contextmanager
    def under_way(self, kind: Work) -> Iterator[None]:
        """A piece of work is under way."""
        self._note(kind, 1)
        try:
            yield
        finally:
            self._note(kind, -1)

    def standing(self) -> dict[Work, _Pace]:
        """The kinds of which something is under way."""
        with self._lock:
            return {kind: pace for kind, pace in self._paces.items() if pace.num_active}

    def _note(self, kind: Work, change: int) -> None:
        with self._lock:
            active = self._paces[kind].num_active if kind in self._paces else 0
            self._paces[kind] = _Pace(active + change, time.monotonic())


WATCH = Watch()
"""That of this process."""
under_way = WATCH.under_way


@contextmanager
def looking_after(watch: Watch, timeout_s: float, act: Callable[[dict[Work, float]], None]) -> Iterator[None]:
    """Calls `act`, in a thread of its own, when a kind of work has been stuck for `timeout_s`.

    Once each time that one gets stuck, with the seconds of whatever stands: an engine may wait for a tool that hangs.
    """
    ended = threading.Event()

    def look() -> None:
        told: dict[Work, float] = {}
        while not ended.wait(min(timeout_s / 10, 5.0)):
            moved = {kind: pace.moved_s for kind, pace in watch.standing().items()}
            now = time.monotonic()
            stuck = {kind: since for kind, since in moved.items() if now - since > timeout_s}
            if any(told.get(kind) != since for kind, since in stuck.items()):
                told |= stuck
                act({kind: now - since for kind, since in sorted(moved.items(), key=lambda one: one[1])})

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        if threading.current_thread() is not thread:
            thread.join()


def write_stacks(path: Path, title: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Writes where every thread, every task of `loop` and every process below this one stands."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{title}\n\nThreads, the innermost call first:\n\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
        if loop is not None:
            file.write("\nTasks of the event loop, the innermost call last:\n")
            for stack, count in Counter(map(_stack, asyncio.all_tasks(loop))).most_common():
                file.write(f"\n{count} x\n{stack}")
        file.write("\nProcesses below this one (id, state, what the kernel waits in, command):\n\n")
        file.writelines(f"{line}\n" for line in _descendants())


def _stack(task: "asyncio.Task[object]") -> str:
    """From the task's own coroutine down to what it awaits."""
    lines: list[str] = []
    awaited: object = task.get_coro()
    while awaited is not None and len(lines) < 60:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            lines.append(f"  {awaited!r}\n".split(" at 0x")[0].rstrip() + "\n")
            break
        lines += traceback.format_list(traceback.StackSummary.extract([(frame, frame.f_lineno)]))
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return "".join(lines)


def _descendants() -> Iterator[str]:
    """A line for each process that descends from this one, as far as /proc knows."""
    parents: dict[str, list[Path]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents.setdefault(_numbers(folder)[1], []).append(folder)
        except OSError:  # it has ended
            continue
    waiting = parents.get(str(Path("/proc/self").resolve().name), [])
    while waiting:
        folder = waiting.pop()
        waiting += parents.get(folder.name, [])
        try:
            state = _numbers(folder)[0]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
            yield f"{folder.name} {state} {(folder / 'wchan').read_text() or '-'} {command}"
        except OSError:
            continue


def _numbers(process: Path) -> list[str]:
    """The fields of its /proc/<id>/stat behind its name, which may be cut in the middle of a character: the state, the
    parent, and so on."""
    return (process / "stat").read_bytes().rpartition(b")")[2].decode().split()


def tell(line: str) -> None:
    """A line on stderr, whatever the main thread is at."""
    print(line, file=sys.stderr, flush=True)
