"""What a broker has room for: the zygotes, and the programs and sessions of all trainers in their processes."""

import asyncio
import heapq
import re
import resource
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnwise.env.sandbox.cgroup import Cgroup
from turnwise.env.sandbox.isolation import MAX_PROGRAMS
from turnwise.env.sandbox.process import Process, start_process
from turnwise.env.sandbox.settings import Settings, masked
from turnwise.env.sandbox.zygotes import OWN, SandboxFailure, Zygote

if TYPE_CHECKING:
    from turnwise.env.sandbox.client import Client

GRACE_S = 5.0
"""How long a zygote may take to end by itself."""
DESCRIPTORS_EACH, SPARE_DESCRIPTORS = 4, 64
"""Descriptors of the broker for each process, with one more while it is forked, and for all else."""


class Session:
    """Programs one after the other in one process, which is there from the first of them on."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.process: Process | None = None
        self.answers: set[asyncio.Task[None]] = set()

    def discard(self) -> None:
        """Ends the process, if there is one; not while a program runs in it."""
        process, self.process = self.process, None
        if process is not None:
            process.close()

    async def close(self) -> None:
        """Kills what runs, and ends the process."""
        await cancel(self.answers)
        self.discard()


class Room:
    """The zygotes, and the room for programs that all trainers share."""

    def __init__(self, settings: Settings, folder: str) -> None:
        self.settings = settings
        self.cgroup = Cgroup(settings)
        self._folder = folder
        self._light = Zygote(settings, f"{folder}/light", [], self.cgroup, self._release)
        self._heavy = Zygote(settings, f"{folder}/heavy", settings.preloaded, self.cgroup, self._release)
        self._slow_modules = re.compile(rf"\b({'|'.join(map(re.escape, settings.preloaded)) or '(?!)'})\b")
        self._room = asyncio.Semaphore(settings.num_workers)
        self._max_processes = min(MAX_PROGRAMS, (_max_descriptors() - SPARE_DESCRIPTORS) // DESCRIPTORS_EACH)
        self._free = list(range(self._max_processes))  # numbers of processes: a heap
        self._releases: set[asyncio.Task[None]] = set()
        self._num_sessions = 0
        self.failure = ""
        """Why there can be no program."""
        self.lacking = ""
        """What this machine has no means for, where that is why."""
        self.clients: set[Client] = set()
        self.is_left = asyncio.Event()
        """Nobody is connected any more."""

    async def start(self) -> None:
        """Has the first zygote ready, or notes why there can be none."""
        if self.settings.num_workers > self._max_processes:
            self.failure = (
                f"num_workers={self.settings.num_workers}: there is room for {self._max_processes} programs, with "
                f"{_max_descriptors()} descriptors of a process (ulimit -Hn)"
            )
            return
        try:
            await self._light.start()
        except SandboxFailure as error:
            self.lacking = str(error)

    def facts(self) -> dict[str, Any]:
        """What a trainer should know of it."""
        facts = {"cgroups": self.cgroup.controllers, "runs_as_root": self._light.runs_as_root}
        return {"failure": self.failure, "lacking": self.lacking, **facts}

    async def run(self, request: dict[str, Any], session: Session | None) -> dict[str, Any]:
        """Has a program run when there is room for it.

        Raises:
            SandboxFailure: What went wrong through no fault of the program.
        """
        if session is None:
            return await self._run_in(Session(), request, once=True)
        async with session.lock:
            return await self._run_in(session, request, once=False)

    async def close(self) -> None:
        """Ends the zygotes and all that they forked."""
        for zygote in (self._light, self._heavy):
            zygote.stop("the sandbox was closed", GRACE_S)
        await asyncio.gather(*self._releases, return_exceptions=True)
        await self.cgroup.close()
        await _remove(self._folder)

    async def _run_in(self, session: Session, request: dict[str, Any], *, once: bool) -> dict[str, Any]:
        is_over = True
        try:
            async with self._room:
                if session.process is not None and session.process.has_ended:  # by what a program left to do so
                    session.discard()
                if session.process is None:
                    session.process = await self._process(request["code"], once=once)
                home = session.process.home
                result = await session.process.run(request)
                is_over = result["has_ended"]
        finally:
            if is_over:
                session.discard()
        return {**result, **{name: masked(result[name], home) for name in ("stdout", "stderr", "value")}}

    async def _process(self, code: str, *, once: bool) -> Process:
        """A process for a program, or for a session, of which nobody knows what later programs import."""
        if not self._free:
            raise SandboxFailure(
                f"the sandbox has no room: {self._max_processes} programs and sessions are there, as many as "
                f"{_max_descriptors()} descriptors of a process allow (ulimit -Hn), {MAX_PROGRAMS} at most"
            )
        is_heavy = self._slow_modules.search(code) if once else self.settings.preloaded
        number, zygote = heapq.heappop(self._free), self._heavy if is_heavy else self._light
        process = await start_process(self.settings, zygote, number, once=once)
        if not once:
            self._count_sessions(1)
            process.on_close = lambda: self._count_sessions(-1)
        return process

    def _count_sessions(self, change: int) -> None:
        self._num_sessions += change
        self.cgroup.allow(self._num_sessions)

    def _release(self, zygote: Zygote, number: int) -> None:
        """A process has ended: what it left is removed, and its number can be another's."""

        async def release() -> None:
            try:
                await _remove(f"{zygote.folder}/{number}")
            finally:
                heapq.heappush(self._free, number)

        self._releases.add(task := asyncio.create_task(release()))
        task.add_done_callback(self._releases.discard)


async def cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels what is under way, and waits until it has ended."""
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)


def _max_descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _remove(folder: str) -> None:
    """Removes `folder` and what is in it; `rm` copes with trees too deep for recursion in Python."""
    try:
        Path(folder).rmdir()
    except FileNotFoundError:
        return
    except OSError:
        remove = 'rm -rf -- "$0" || { chmod -R u+rwx -- "$0"; rm -rf -- "$0"; }'  # its owner may be shut out of it
        process = subprocess.Popen(["sh", "-c", remove, folder], stderr=subprocess.DEVNULL)
        OWN.add(process.pid)
        await asyncio.to_thread(process.wait)
        OWN.discard(process.pid)
