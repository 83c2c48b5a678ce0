"""A zygote and the processes that it forks, as the broker sees them."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turnwise.env.sandbox import zygote as zygote_script
from turnwise.env.sandbox.cgroup import Cgroup
from turnwise.env.sandbox.isolation import kill_orphans
from turnwise.env.sandbox.settings import Settings, clean_environment
from turnwise.env.sandbox.zygote import MAX_PACKET_BYTES

START_S = 60.0
"""How long a zygote may take to start, with all that it imports beforehand on a busy machine, or to fork."""
SCHEDULED_CPU = 2
"""Which of a process's clocks counts the processor time of all its threads."""


OWN: set[int] = set()
"""Processes that the broker has started itself; others come to it when a zygote is gone, and are killed."""


class SandboxFailure(Exception):
    """What went wrong through no fault of a program."""


class Child:
    """A process that a zygote forks: killed and waited for by whoever asked for it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[tuple[int, float]] = loop.create_future()
        """Exit code, negative for a signal, and seconds of processor time."""
        self._pidfd: int | None = None
        self._clock = 0
        self._is_condemned = False

    def kill(self) -> None:
        """Ends it, as soon as it is there."""
        self._is_condemned = True
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Stops it where it is."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def cpu_s(self) -> float:
        """Seconds of processor time that it has used; 0 where it is not there."""
        with contextlib.suppress(OSError):  # it has just ended
            return time.clock_gettime(self._clock) if self._clock else 0.0
        return 0.0

    def has_started(self, pidfd: int) -> None:
        """The zygote has forked it."""
        self._pidfd = pidfd
        pid = next(
            int(line.split()[1])
            for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
            if line.startswith("Pid:")
        )
        self._clock = ~pid << 3 | SCHEDULED_CPU if pid > 0 else 0  # -1 where it has been waited for already
        if self._is_condemned:
            self.kill()
        _settle(self.started, None)

    def has_ended(self, exit_code: int, cpu_s: float) -> None:
        """The zygote has waited for it."""
        self._forget()
        _settle(self.ended, (exit_code, cpu_s))

    def is_lost(self, why: str) -> None:
        """Its zygote is gone, or could not fork it."""
        self._signal(signal.SIGKILL)
        self._forget()
        for future in (self.started, self.ended):
            if not future.done():
                future.set_exception(SandboxFailure(why))
                future.exception()  # whoever does not ask need not be told

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _forget(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._pidfd, self._clock = None, 0


class Zygote:
    """One zygote; started when it is needed, and again after it failed."""

    def __init__(
        self,
        settings: Settings,
        folder: str,
        modules: list[str],
        cgroup: Cgroup,
        release: Callable[["Zygote", int], None],
    ) -> None:
        """Takes a folder of its own, the modules that it imports beforehand, and what hears which numbers are free."""
        self.runs_as_root = False
        self._settings = settings
        self.folder = folder
        """In it lie the folders of its processes, where they have no file system of their own."""
        self._modules = modules
        self._cgroup = cgroup
        self._release = release
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._is_ready: asyncio.Future[None] | None = None
        self._children: dict[int, Child] = {}

    def release(self, number: int) -> None:
        """Says that a number is free which no child has."""
        self._release(self, number)

    async def fork(self, number: int, descriptors: list[int], *, once: bool) -> Child:
        """A child of this number, which must be free; it owns copies of the three descriptors.

        The number is released when the child has ended, or could not be had. Cancelling kills it.

        Raises:
            SandboxFailure: It could not be had.
        """
        try:
            channel = await self.start()
        except BaseException:
            self.release(number)
            raise
        child = self._children[number] = Child()
        child.ended.add_done_callback(lambda _: self.release(number))
        is_asked = False
        try:
            async with asyncio.timeout(START_S):
                await _send(channel, {"number": number, "once": once}, descriptors)
                is_asked = True
                await asyncio.shield(child.started)
        except (OSError, TimeoutError) as error:
            self.stop(f"the sandbox's zygote does not answer: {type(error).__name__}")
            raise SandboxFailure(f"the sandbox's zygote does not answer: {type(error).__name__}") from error
        except asyncio.CancelledError:
            child.kill()
            if not is_asked and self._children.pop(number, None) is not None:
                child.is_lost("it was not asked for")
            raise
        return child

    async def start(self) -> socket.socket:
        """The socket of a zygote that is ready.

        Raises:
            SandboxFailure: It could not be set up, or takes too long.
        """
        if self._channel is None:
            self._launch()
        channel, is_ready = self._channel, self._is_ready
        assert channel is not None
        assert is_ready is not None
        try:
            async with asyncio.timeout(START_S):
                await asyncio.shield(is_ready)
        except TimeoutError as error:
            self.stop(f"the sandbox's zygote was not ready within {START_S:g} s")
            raise SandboxFailure(f"the sandbox's zygote was not ready within {START_S:g} s") from error
        return channel

    def stop(self, why: str, patience_s: float = 0.0) -> None:
        """Ends it, and with it all that it has forked; by force when it takes longer than `patience_s`."""
        if self._process is None or self._channel is None or self._is_ready is None:
            return
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not self._is_ready.done():
            self._is_ready.set_exception(SandboxFailure(why))
            self._is_ready.exception()
        children, self._children = self._children, {}
        OWN.discard(self._process.pid)
        self._process = self._channel = self._is_ready = None
        for child in children.values():
            child.is_lost(why)
        kill_orphans(OWN.__contains__)

    def _launch(self) -> None:
        Path(self.folder).mkdir(exist_ok=True)
        Path(self.folder).chmod(0o711)  # for the users that programs run as
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", zygote_script.__file__, self.folder, *self._modules],
                stdin=theirs.fileno(),
                env=clean_environment(),
                cwd="/",
            )
        ours.send(json.dumps(dataclasses.asdict(self._settings)).encode())
        OWN.add(self._process.pid)
        self._channel, self._is_ready = ours, loop.create_future()
        loop.add_reader(ours, self._hear)
        try:
            self._cgroup.add(self._process.pid)
        except OSError as error:
            self.stop(str(error))
            raise

    def _hear(self) -> None:
        """Takes in what the zygote says."""
        assert self._channel is not None
        assert self._is_ready is not None
        while self._channel is not None:
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._channel, MAX_PACKET_BYTES, 1)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self.stop("the sandbox's zygote has ended")
                return
            message = json.loads(packet)
            match message:
                case {"started": number} if descriptors:
                    self._children[number].has_started(descriptors[0])
                case {"started": _}:  # the kernel drops what there is no room for
                    self.stop("the sandbox's broker has no descriptors left")
                case {"failure": why, "ended": number}:
                    self._children.pop(number).is_lost(why)
                case {"ended": number, "exit_code": exit_code, "cpu_s": cpu_s}:
                    self._children.pop(number).has_ended(exit_code, cpu_s)
                case {"failure": "", "is_root": is_root}:
                    self.runs_as_root = is_root
                    self._is_ready.set_result(None)
                case {"failure": why}:
                    self._is_ready.set_exception(SandboxFailure(why))
                    self.stop(why)


async def _send(channel: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    while True:
        with contextlib.suppress(BlockingIOError):  # it has many to fork before
            socket.send_fds(channel, [json.dumps(message).encode()], descriptors)
            return
        await asyncio.sleep(0.001)


def _settle(future: "asyncio.Future", value: object) -> None:
    if not future.done():
        future.set_result(value)
