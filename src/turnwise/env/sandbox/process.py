"""A process in which programs run, as the broker sees it: what goes in, what comes out, and when it is killed."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from turnwise.env.sandbox.child import READY
from turnwise.env.sandbox.isolation import MAX_FILES, Tier
from turnwise.env.sandbox.messages import encode, take
from turnwise.env.sandbox.program import BLOCKED_EXIT, MEMORY_EXIT, USER_ERROR_EXIT, classify
from turnwise.env.sandbox.settings import Settings
from turnwise.env.sandbox.zygotes import START_S, Child, SandboxFailure, Zygote

REAP_S = 10.0
"""How long a zygote may take to say that a process has ended which was killed."""
CHUNK_BYTES = 1 << 16
NUM_CPUS = os.cpu_count() or 1
MIN_WAIT_S = 0.005
"""How closely processor time is looked at; the kernel's own ticks are about as long."""
EXIT_CODES = (0, USER_ERROR_EXIT, MEMORY_EXIT, BLOCKED_EXIT)
"""What a process may say of a program after which it goes on."""
NO_REPLY = {"exit_code": 0, "value": "", "error": ""}
LOOK_S, BLOCK_BYTES = 0.05, 512
"""How often the files of a program are counted in tier B, and what a block of `stat` is."""
MAX_SAID_CHARS = 300
"""What is told of a process that could not be set up."""
BYTES_PER_CHARACTER = 12
"""The most that JSON makes of a character."""


class Process:
    """One process of a zygote. It runs one program, or those of a session, one after the other."""

    def __init__(
        self,
        settings: Settings,
        zygote: Zygote,
        child: Child,
        ends: tuple[socket.socket, int, int],
        *,
        home: str,
        once: bool,
    ) -> None:
        """Use `start_process`."""
        self.home = home
        """The folder in which it runs, as this process would find it; in tier A it does not."""
        self._settings = settings
        self._zygote = zygote
        self._child = child
        self._control, self._output, self._error = ends
        self._once = once
        self._news = asyncio.Event()
        self._received: dict[int, bytearray] = {self._control.fileno(): bytearray()}
        self._received |= {self._output: bytearray(), self._error: bytearray()}
        for fd in self._received:
            os.set_blocking(fd, False)
            asyncio.get_running_loop().add_reader(fd, self._read, fd)
        child.ended.add_done_callback(lambda _: self._news.set())
        self._is_ready = False
        self._next_look = 0.0
        self.on_close: Callable[[], None] = lambda: None
        self._reply: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether no further program can be given to it."""
        return self._child.ended.done()

    async def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Has a program run, and says what became of it: `{status, stdout, stderr, value, wall_s, has_ended}`.

        Raises:
            SandboxFailure: It could not be set up, or its zygote is gone.
        """
        control = self._received[self._control.fileno()]
        self._child.resume()
        sending = self._send(encode(request))
        try:
            if not self._is_ready:
                await self._become_ready()
            else:
                control.clear()  # what a program wrote there after its end
            started = monotonic()
            limit_hit = await self._watch(started)
        finally:
            if sending is not None:
                sending.cancel()
        if limit_hit or self._once or self.has_ended:
            exit_code, cpu_s = await self._end()
            if self._once and limit_hit is None and cpu_s > self._settings.cpu_s:
                limit_hit = "timeout"  # the kernel was quicker than the watch
        else:
            exit_code = None
            self._drain()
            # Threads of a session do not run between its programs; the answer goes first.
            asyncio.get_running_loop().call_soon(self._child.pause)
        result = self._result(exit_code, limit_hit)
        return {**result, "wall_s": monotonic() - started, "has_ended": self.has_ended}

    def close(self) -> None:
        """Kills it and closes what leads to it, not while a program is under way; safe to call twice."""
        if not self._received:
            return
        self.on_close()
        self._child.kill()
        for fd in self._received:
            asyncio.get_running_loop().remove_reader(fd)
            if fd != self._control.fileno():
                os.close(fd)
        self._received.clear()
        self._control.close()

    async def _become_ready(self) -> None:
        control = self._received[self._control.fileno()]
        deadline = monotonic() + START_S
        while not control.startswith(READY):
            if self.has_ended or monotonic() > deadline:
                exit_code, _ = await self._end()
                said = " ".join(self._text(self._error).split())[-MAX_SAID_CHARS:]
                raise SandboxFailure(f"the sandbox could not set up a process: exit code {exit_code}: {said}")
            await self._hear_news(deadline - monotonic())
        del control[: len(READY)]
        self._is_ready = True

    async def _watch(self, started: float) -> str | None:
        """Waits until the program ends (None) or breaks a limit (the status that says which)."""
        settings, cpu_before_s = self._settings, self._child.cpu_s()
        self._next_look = started + LOOK_S
        while True:
            if self._is_flooded():
                return "output_limit"
            if self.has_ended or (not self._once and self._hears_reply()):
                return None
            if self._overfills():
                return "output_limit"
            wall_left_s = started + settings.wall_s - monotonic()
            cpu_left_s = settings.cpu_s - (self._child.cpu_s() - cpu_before_s)
            if min(wall_left_s, cpu_left_s) <= 0:
                return "timeout"
            looks_again_s = self._next_look - monotonic() if settings.tier == Tier.B else wall_left_s
            await self._hear_news(min(wall_left_s, cpu_left_s / NUM_CPUS, looks_again_s))

    def _overfills(self) -> bool:
        """Whether the files of a program take more than it may have, or hide from being counted.

        In tier A its file system sees to that. Here a file without a name, mapped or open, does not count.
        """
        if self._settings.tier != Tier.B or monotonic() < self._next_look:
            return False
        num_bytes = num_files = 0
        folders = [self.home]
        while folders and num_files <= MAX_FILES:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        num_files += 1
                        num_bytes += entry.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
            except FileNotFoundError:  # it is gone again
                continue
            except OSError:  # a path too long, a folder that is shut
                return True
        self._next_look = monotonic() + LOOK_S
        return num_files > MAX_FILES or num_bytes > self._settings.scratch_mb << 20

    async def _hear_news(self, patience_s: float) -> None:
        timer = asyncio.get_running_loop().call_later(max(patience_s, MIN_WAIT_S), self._news.set)
        await self._news.wait()
        self._news.clear()
        timer.cancel()

    def _send(self, message: bytes) -> asyncio.Task[None] | None:
        """Sends at once what the socket takes, and the rest of a long program by and by."""
        with contextlib.suppress(OSError):  # it ends, which the watch sees
            if rest := message[self._control.send(message) :]:
                return asyncio.create_task(self._send_rest(rest))
        return None

    async def _send_rest(self, rest: bytes) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._control, rest)

    async def _end(self) -> tuple[int, float]:
        """Kills it if it has not ended; what it leaves in the pipes is taken in."""
        if not self._child.ended.done():
            self._child.kill()
        if not (await asyncio.wait([self._child.ended], timeout=REAP_S))[0]:
            self._zygote.stop("the sandbox's zygote does not answer")
        ended = self._child.ended.result()
        self._drain()
        return ended

    def _drain(self) -> None:
        """Takes in what is there, up to the limit."""
        for fd, received in self._received.items():
            while self._read(fd) and len(received) <= self._max_bytes(fd):
                pass

    def _read(self, fd: int) -> bool:
        """Takes in what is there, up to a limit: what comes beyond it is read and dropped; False when nothing is."""
        try:
            chunk = os.read(fd, CHUNK_BYTES)
        except (BlockingIOError, ConnectionResetError):
            return False
        if not chunk:
            asyncio.get_running_loop().remove_reader(fd)
        elif len(received := self._received[fd]) <= self._max_bytes(fd):
            received += chunk
        self._news.set()
        return bool(chunk)

    def _max_bytes(self, fd: int) -> int:
        most = self._settings.max_capture_bytes
        return most if fd != self._control.fileno() else 2 * BYTES_PER_CHARACTER * most + 1024

    def _is_flooded(self, num_bytes_told: int = 0) -> bool:
        """Whether it printed more than is kept, with what it told on the control socket."""
        printed = num_bytes_told + len(self._received[self._output]) + len(self._received[self._error])
        control = self._control.fileno()
        return printed > self._settings.max_capture_bytes or len(self._received[control]) > self._max_bytes(control)

    def _hears_reply(self) -> bool:
        """Whether the process has said what became of its program: its word on itself alone, whatever it is."""
        if self._reply is None:
            try:
                self._reply = take(self._received[self._control.fileno()])
            except ValueError:
                self._reply = {}
        return self._reply is not None

    def _result(self, exit_code: int | None, limit_hit: str | None) -> dict[str, Any]:
        """Empties what was received. An `exit_code` comes from the kernel; else the process's own word counts.

        Half characters, which nobody could encode, are written out.
        """
        match self._reply if self._hears_reply() else NO_REPLY:
            case {"exit_code": int(word), "value": str(value), "error": str(error)}:
                pass
            case _:
                word, value, error = 1, "", "Error: not an answer of the interpreter\n"
        self._reply = None
        value, error = (text.encode(errors="backslashreplace").decode() for text in (value, error))
        if limit_hit is None and self._is_flooded(len(value.encode()) + len(error.encode())):
            limit_hit = "output_limit"
        printed = self._received[self._output][: self._settings.max_capture_bytes]
        stdout, stderr = printed.decode(errors="replace"), self._text(self._error, len(printed))
        if limit_hit:
            status, note, value, error = limit_hit, "", "", ""
        else:
            known = word if word in EXIT_CODES else USER_ERROR_EXIT
            status, note = classify(known if exit_code is None else exit_code, stdout + stderr + error)
        for received in self._received.values():
            received.clear()
        return {"status": status, "stdout": stdout, "stderr": stderr + error + note, "value": value}

    def _text(self, fd: int, num_bytes_before: int = 0) -> str:
        return self._received[fd][: self._settings.max_capture_bytes - num_bytes_before].decode(errors="replace")


async def start_process(settings: Settings, zygote: Zygote, number: int, *, once: bool) -> Process:
    """A process of this number, which the zygote releases.

    Raises:
        SandboxFailure: It could not be had.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        try:
            control, other = socket.socketpair()
            ours.callback(control.close)
            theirs.callback(other.close)
            kept: list[int] = []
            given = [other.fileno()]
            for _ in range(2):
                end, other_end = os.pipe()
                ours.callback(os.close, end)
                theirs.callback(os.close, other_end)
                kept.append(end)
                given.append(other_end)
        except OSError as error:
            zygote.release(number)
            raise SandboxFailure(f"the sandbox's broker has no descriptors left: {error}") from error
        child = await zygote.fork(number, given, once=once)
        ours.pop_all()  # they are the process's from here on
    return Process(settings, zygote, child, (control, kept[0], kept[1]), home=f"{zygote.folder}/{number}", once=once)
