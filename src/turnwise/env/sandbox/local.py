"""Runs Python programs in a warm pool of separate processes, kept apart from everything else.

Each worker (`turnwise.env.sandbox.worker`) is an interpreter that has started already and forks a child for each
program, several times cheaper than a new interpreter. What a program is kept from, beside its limits, is a matter of
the `Tier` that this machine allows: `turnwise.env.sandbox.canaries` tries it when the pool starts.
"""

import asyncio
import os
import queue
import re
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from turnwise.env.sandbox.canaries import best_tier
from turnwise.env.sandbox.interface import ErrorDetail
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.process import WorkerProcess
from turnwise.env.sandbox.syscalls import filter_program
from turnwise.env.sandbox.worker import Settings
from turnwise.types import Isolation, ToolResult, ToolStatus


@dataclass(frozen=True, kw_only=True)
class LocalSandbox:
    """Limits of a program and the number of processes that run them."""

    num_workers: int = 2
    """Programs that run at the same time, each in a warm process of its own."""

    wall_s: float = 5.0
    """Seconds until a program is killed."""

    cpu_s: float = 5.0
    """Seconds of processor time for each process of a program; the kernel counts whole seconds, rounded up."""

    memory_mb: int = 1024
    """Address space of each process of a program, in MiB."""

    file_mb: int = 16
    """Largest file that a program may write, in MiB."""

    max_open_files: int = 64
    """File descriptors of each process of a program."""

    max_processes: int = 256
    """Processes and threads that a program may add to those its user has; the kernel exempts root."""

    max_capture_bytes: int = 65536
    """Bytes of output that are kept; a program that prints more is killed."""

    scratch_mb: int = 64
    """Space for the files of a program, in MiB; bounded in tier A alone."""

    preloaded: list[str] = field(default_factory=lambda: ["numpy", "sympy"])
    """Slow modules: a program that names one runs in a worker that has imported them all, where they are installed."""

    allow_unsafe: bool = False
    """Run programs without isolation where this machine has no means for it: with all that their user may do."""

    def __post_init__(self) -> None:
        for name, low in (
            ("num_workers", 1),
            ("wall_s", 0.05),
            ("cpu_s", 0.05),
            ("memory_mb", 64),
            ("file_mb", 0),
            ("max_open_files", 16),
            ("max_processes", 0),
            ("max_capture_bytes", 64),
            ("scratch_mb", 1),
        ):
            if not low <= (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"{name}={value}: expected a finite number >= {low}")

    def start(self) -> "LocalPool":
        """Starts the workers in the best tier that holds on this machine; the caller closes the pool.

        Raises:
            ValueError: None holds, and `allow_unsafe` is false.
        """
        return LocalPool(self, best_tier(self.worker, allow_unsafe=self.allow_unsafe))

    def worker(self, tier: Tier, *, preloads: bool = False) -> WorkerProcess:
        """A worker, not yet started."""
        return WorkerProcess(self.settings(tier, preloads=preloads))

    def settings(self, tier: Tier, *, preloads: bool = False) -> Settings:
        """What a worker is told; its folder is open."""
        return Settings(
            folder="",
            wall_s=self.wall_s,
            cpu_s=self.cpu_s,
            memory_mb=self.memory_mb,
            file_mb=self.file_mb,
            max_open_files=self.max_open_files,
            max_processes=self.max_processes,
            max_capture_bytes=self.max_capture_bytes,
            scratch_mb=self.scratch_mb,
            tier=tier.value,
            preloaded=self.preloaded if preloads else [],
            forbidden="" if tier is Tier.unsafe else filter_program().hex(),
        )


class Slot(NamedTuple):
    """Room for one program at a time: a worker that is there at once, and one that imports slow modules beforehand."""

    light: WorkerProcess
    heavy: WorkerProcess


class LocalPool:
    """Warm workers behind a queue. Any number of `run` may be under way, from any event loop."""

    def __init__(self, sandbox: LocalSandbox, tier: Tier) -> None:
        """Use `LocalSandbox.start`."""
        self.isolation = Isolation[tier.name]
        self._slow_modules = re.compile(rf"\b({'|'.join(map(re.escape, sandbox.preloaded)) or '(?!)'})\b")
        slots = [Slot(sandbox.worker(tier), sandbox.worker(tier, preloads=True)) for _ in range(sandbox.num_workers)]
        self._idle: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(sandbox.num_workers, thread_name_prefix="sandbox")
        workers = [worker for slot in slots for worker in slot]
        self._shut_down = weakref.finalize(self, _shut_down, self._threads, workers, os.getpid())
        for slot in slots:
            self._idle.put(slot)
            # A worker dies with the thread that started it: these threads live as long as the pool.
            self._threads.submit(slot.light.start)

    async def run(
        self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback, *, shows_value: bool = False
    ) -> ToolResult:
        """Runs `code` as a program and returns its status and whatever it printed, an uncaught exception at the end.

        The value of an expression that stands last is printed where it `shows_value`. A worker that fails is replaced
        and the program is tried once more; then the status is `infrastructure` and the output names the failure.
        Cancelling abandons the result; the program itself still ends within its limits.

        The same code gives the same text in every worker, as far as the sandbox can see to it: hashes and
        `random` are seeded, frames name only `program.py`, every address that follows " at " is printed as
        `0x...`, and the path of the sandbox's folder as `SHOWN_FOLDER`. What a program takes from elsewhere
        still differs: time, `id()` and orders that depend on it, process and thread ids, `os.urandom` and what
        it seeds (NumPy's generators, `tempfile`'s names), parts of the folder's path, races of its own threads,
        files, the network; and how far a program came that was killed at a limit.

        Raises:
            RuntimeError: The pool is closed.
        """
        if not self._shut_down.alive:
            raise RuntimeError("the sandbox pool is closed")
        is_traceback = error_detail is ErrorDetail.traceback
        request = {"code": code, "is_traceback": is_traceback, "shows_value": shows_value}
        is_heavy = self._slow_modules.search(code) is not None
        return await asyncio.get_running_loop().run_in_executor(self._threads, _run, self._idle, is_heavy, request)

    async def close(self) -> None:
        """Kills what still runs and ends every worker; safe to call twice. An unclosed pool is closed at exit."""
        await asyncio.to_thread(self._shut_down)


def _run(idle: "queue.SimpleQueue[Slot]", is_heavy: bool, request: dict[str, Any]) -> ToolResult:
    """Runs a program in the next idle slot; does not hold the pool, which a thread of its own could not end."""
    start = time.monotonic()
    slot = idle.get()
    worker = slot.heavy if is_heavy else slot.light
    failure = ""
    try:
        for _ in range(2):
            try:
                return worker.exchange(request)
            except (OSError, EOFError, ValueError, KeyError) as error:
                failure = f"{type(error).__name__}: {error}"
                worker.discard()
    finally:
        idle.put(slot)
    return ToolResult(status=ToolStatus.infrastructure, output=failure, wall_s=time.monotonic() - start)


def _shut_down(threads: ThreadPoolExecutor, workers: list[WorkerProcess], owner_pid: int) -> None:
    if os.getpid() != owner_pid:  # a fork of the trainer ends: the workers are not its own
        return
    for worker in workers:
        worker.interrupt()
    threads.shutdown(wait=True)
    for worker in workers:
        worker.discard()
