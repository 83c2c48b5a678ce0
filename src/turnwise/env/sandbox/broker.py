"""Runs programs for trainers, each in a process of its own: the far side of `turnwise.env.sandbox.link`, a script.

It starts from a bare environment and holds nothing but its sockets: no answer, no checkpoint and no key was ever in its
memory. Two zygotes fork the processes: one that is there at once, and one that has imported slow modules beforehand. It
ends when no trainer is connected any more, and everything ends with it. What is said on a socket:

    settings                                     first, of the trainer that started it; no answer
    {"hello": settings}                          -> {"differing", "failure", "lacking": text, and `Broker.facts`}
    {"id", "run": request}                       -> {"id", "result": ...} or {"id", "failure": text}
    {"id", "run": request, "session": number}    -> the same, with the variables of the session's programs before
    {"cancel": id}, {"close": session}           no answer: what runs is killed
    {"ping": id}                                 -> {"pong": id}

A request is `{"code", "is_traceback", "shows_value"}`, a result what `turnwise.env.sandbox.process` says.
"""

import asyncio
import contextlib
import dataclasses
import heapq
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from turnwise.env.sandbox.cgroup import Cgroup
from turnwise.env.sandbox.child import MAX_DESCRIPTORS
from turnwise.env.sandbox.isolation import MAX_PROGRAMS, adopt_orphans
from turnwise.env.sandbox.messages import encode, take
from turnwise.env.sandbox.process import Process, start_process
from turnwise.env.sandbox.settings import Settings, masked
from turnwise.env.sandbox.zygotes import OWN, SandboxFailure, Zygote

CHUNK_BYTES = 1 << 16
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
        await _cancel(self.answers)
        self.discard()


class Broker:
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


class Client(asyncio.Protocol):
    """One trainer that is connected."""

    def __init__(self, broker: Broker, received: bytearray | None = None) -> None:
        self._broker = broker
        self._received = bytearray() if received is None else received
        self._answers: dict[int, asyncio.Task[None]] = {}
        self._sessions: dict[int, Session] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._broker.clients.add(self)
        self.data_received(b"")  # what had come before

    def data_received(self, data: bytes) -> None:
        """It says something."""
        self._received += data
        while (message := take(self._received)) is not None:
            self._heed(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone: all that runs for it ends."""
        asyncio.create_task(self.leave())  # noqa: RUF006 -- the broker holds its client until it is done

    async def leave(self) -> None:
        """Ends all that runs for it; safe to call twice."""
        try:
            await _cancel(self._answers.values())
            for session in self._sessions.values():
                session.discard()
            await asyncio.gather(*self._closing, return_exceptions=True)
            self._transport.close()
        finally:
            self._broker.clients.discard(self)
            if not self._broker.clients:
                self._broker.is_left.set()

    def _heed(self, message: dict[str, Any]) -> None:
        match message:
            case {"hello": settings}:
                self._say(
                    {"differing": differences(self._broker.settings, Settings(**settings)), **self._broker.facts()}
                )
            case {"id": number, "run": request, **rest}:
                session = self._sessions.setdefault(rest["session"], Session()) if "session" in rest else None
                self._answers[number] = task = asyncio.create_task(self._answer(number, request, session))
                task.add_done_callback(lambda _: self._answers.pop(number))
                if session is not None:
                    session.answers.add(task)
                    task.add_done_callback(session.answers.discard)
            case {"cancel": number} if number in self._answers:
                self._answers[number].cancel()
            case {"close": name} if name in self._sessions:
                self._closing.add(task := asyncio.create_task(self._sessions.pop(name).close()))
                task.add_done_callback(self._closing.discard)
            case {"ping": number}:
                self._say({"pong": number})

    async def _answer(self, number: int, request: dict[str, Any], session: Session | None) -> None:
        try:
            self._say({"id": number, "result": await self._broker.run(request, session)})
        except asyncio.CancelledError:
            self._say({"id": number, "failure": "the program was cancelled, or its session closed"})
            raise
        except Exception as error:  # whatever it is, a trainer waits for an answer
            if not isinstance(error, (SandboxFailure, OSError)):
                traceback.print_exc()
            self._say({"id": number, "failure": str(error) or type(error).__name__})

    def _say(self, message: dict[str, Any]) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode(message))


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels what is under way, and waits until it has ended."""
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)


def _max_descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def differences(settings: Settings, wanted: Settings) -> str:
    """The fields in which a trainer's settings are not those of the broker: `wall_s=5.0, not 3.0`."""
    ours, theirs = dataclasses.asdict(settings), dataclasses.asdict(wanted)
    del ours["forbidden"]  # which says nothing to anybody
    return ", ".join(f"{name}={ours[name]}, not {theirs[name]}" for name in ours if ours[name] != theirs[name])


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


async def serve(first: socket.socket, folder: str) -> None:
    """Serves the trainer at the other end of `first`, who sends the settings, and those that connect to their socket.

    What it needs on disk is in `folder`, which it removes at the end.
    """
    Path(folder).chmod(0o711)  # for the users that programs run as
    received = bytearray()
    while (told := take(received)) is None:
        if not (chunk := first.recv(CHUNK_BYTES)):
            return
        received += chunk
    settings = Settings(**told)
    broker = Broker(settings, folder)
    loop, listens_at = asyncio.get_running_loop(), None
    loop.add_signal_handler(signal.SIGTERM, broker.is_left.set)
    try:
        await broker.start()
        if settings.socket and not broker.failure and not broker.lacking:
            listens_at = await _listen(settings.socket, lambda: Client(broker))
        await loop.create_connection(lambda: Client(broker, received), sock=first)
        await broker.is_left.wait()
    finally:
        if listens_at is not None and _identity(settings.socket) == listens_at:
            Path(settings.socket).unlink()
        await asyncio.gather(*(client.leave() for client in broker.clients))
        await broker.close()


async def _listen(path: str, client: Callable[[], Client]) -> tuple[int, int]:
    """Listens at `path`, for this user alone; by the identity that is returned the place is known again."""
    mask = os.umask(0o177)
    try:
        await asyncio.get_running_loop().create_unix_server(client, path)
    finally:
        os.umask(mask)
    identity = _identity(path)
    assert identity is not None
    return identity


def _identity(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        status = Path(path).stat()
        return status.st_dev, status.st_ino
    return None


if __name__ == "__main__":
    os.dup2(2, 1)
    adopt_orphans()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, MAX_DESCRIPTORS), most))
    asyncio.run(serve(socket.socket(fileno=0), sys.argv[1]))
