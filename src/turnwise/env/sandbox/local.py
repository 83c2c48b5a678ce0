"""Runs Python programs in processes that are forked from a warm interpreter, kept apart from everything else.

A broker (`turnwise.env.sandbox.broker`) does so, a process beside the trainer that knows nothing of it. What a program
is kept from, beside its limits, is a matter of the `Tier` that this machine allows: `turnwise.env.sandbox.canaries`
tries it when the pool starts.
"""

import asyncio
import importlib.util
import itertools
import os
import time
import weakref
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from turnwise.env.sandbox.canaries import best_tier
from turnwise.env.sandbox.interface import ErrorDetail, ProgramResult
from turnwise.env.sandbox.isolation import MAX_PROGRAMS, Tier
from turnwise.env.sandbox.link import Connection, Facts, Link
from turnwise.env.sandbox.settings import Settings
from turnwise.env.sandbox.syscalls import filter_program
from turnwise.ranks import current
from turnwise.types import Isolation, ToolStatus

MAX_LIMIT = 1 << 30
"""The highest limit of anything: seconds, MiB, bytes, numbers."""
MAX_PLACE = 107
"""Bytes of the path of a Unix socket."""
NUM_TRIES = 2
"""How often a program is tried that fails through no fault of its own."""


class WantedTier(StrEnum):
    """What a user asks for; `turnwise.env.sandbox.isolation.Tier` says what it is."""

    best = "best"
    A = "A"
    B = "B"


@dataclass(frozen=True, kw_only=True)
class LocalSandbox:
    """Limits of a program, and how many run at a time."""

    num_workers: int = 2
    """Programs that run at the same time. Ranks of a machine share them out, and each has one at least."""

    wall_s: float = 5.0
    """Seconds until a program is killed."""

    cpu_s: float = 5.0
    """Seconds of processor time of a program, over all its threads."""

    memory_mb: int = 1024
    """Address space that a program may add to that of the warm interpreter, in MiB."""

    total_memory_mb: int = 0
    """Memory of all programs together, those of all ranks, in MiB, where this user may make a control group; 0: what
    their limits allow."""

    file_mb: int = 16
    """Largest file that a program may write, in MiB."""

    max_open_files: int = 64
    """File descriptors of a program."""

    max_processes: int = 256
    """Threads that a program may start; without isolation processes too, and unbounded for root."""

    max_capture_bytes: int = 65536
    """Bytes of output that are kept, both streams together; a program that prints more is killed."""

    scratch_mb: int = 64
    """Space for the files of a program, in MiB; in tier B one that takes more is killed."""

    preloaded: list[str] = field(default_factory=lambda: ["numpy", "sympy"])
    """Slow modules: a program that names one begins where all of them are imported already."""

    socket: str = ""
    """Where several trainers of a machine share one broker: the first to come starts it. Empty: each has its own."""

    tier: WantedTier = WantedTier.best
    """How programs are kept apart: the best way that this machine allows, or none but this one."""

    allow_unsafe: bool = False
    """Run programs without isolation where this machine has no means for it: with all that their user may do."""

    keeps_sessions = True

    def __post_init__(self) -> None:
        for name, low in (
            ("num_workers", 1),
            ("wall_s", 0.05),
            ("cpu_s", 0.05),
            ("memory_mb", 16),
            ("total_memory_mb", 0),
            ("file_mb", 1),
            ("max_open_files", 16),
            ("max_processes", 0),
            ("max_capture_bytes", 64),
            ("scratch_mb", 1),
        ):
            if not low <= (value := getattr(self, name)) <= MAX_LIMIT:
                raise ValueError(f"{name}={value}: expected a number from {low} to {MAX_LIMIT}")
        if self.num_workers > MAX_PROGRAMS:
            raise ValueError(f"num_workers={self.num_workers}: expected at most {MAX_PROGRAMS}")
        if self.file_mb > self.scratch_mb:
            raise ValueError(f"file_mb={self.file_mb}: expected at most scratch_mb={self.scratch_mb}, where files go")
        if 0 < self.total_memory_mb < self.memory_mb + self.scratch_mb:
            raise ValueError(
                f"total_memory_mb={self.total_memory_mb}: expected 0, or what one program may take, "
                f"memory_mb={self.memory_mb} and scratch_mb={self.scratch_mb}, or more"
            )
        if self.tier not in WantedTier.__members__:
            raise ValueError(f"tier={self.tier}: expected best, A or B")
        if self.allow_unsafe and self.tier != WantedTier.best:
            raise ValueError(f"tier={self.tier} allow_unsafe=true: one asks for isolation, the other does without it")
        place = Path(self.socket).absolute()
        if self.socket and not (place.parent.is_dir() and len(os.fsencode(place)) <= MAX_PLACE):
            raise ValueError(
                f"socket={self.socket}: expected a place in a folder that exists, in {MAX_PLACE} bytes at most"
            )
        for name in self.preloaded:
            if not name.isidentifier() or importlib.util.find_spec(name) is None:
                raise ValueError(f"preloaded={self.preloaded}: no module {name!r} is installed here")

    def start(self) -> "LocalPool":
        """Starts a broker in the best tier that holds on this machine; the caller closes the pool.

        Raises:
            ValueError: None holds, and `allow_unsafe` is false.
        """
        wanted = (Tier.A, Tier.B) if self.tier == WantedTier.best else (Tier[self.tier],)
        pool = best_tier(self.start_in, wanted, allow_unsafe=self.allow_unsafe)
        if failure := pool.warm_up():
            pool.end()
            raise ValueError(f"env.sandbox.preloaded={self.preloaded}: {failure}")
        return pool

    def start_in(self, tier: Tier) -> "LocalPool":
        """Starts a broker in a tier that nobody has tried.

        Raises:
            Lacking: This machine has no means for it.
        OSError: It cannot be had; says why.
        """
        return LocalPool(self, tier)

    def settings(self, tier: Tier) -> Settings:
        """What a broker is told; of several ranks' brokers on this machine each gets its part."""
        settings = Settings(
            tier=tier.value,
            num_workers=self.num_workers,
            wall_s=self.wall_s,
            cpu_s=self.cpu_s,
            memory_mb=self.memory_mb,
            total_memory_mb=self.total_memory_mb,
            file_mb=self.file_mb,
            max_open_files=self.max_open_files,
            max_processes=self.max_processes,
            max_capture_bytes=self.max_capture_bytes,
            scratch_mb=self.scratch_mb,
            preloaded=list(self.preloaded),
            forbidden="" if tier is Tier.unsafe else filter_program().hex(),
            socket=str(Path(self.socket).absolute()) if self.socket else "",
        )
        return settings if self.socket else settings.part(current())


class LocalPool:
    """A broker that runs programs. Any number of `run` may be under way, from any event loop.

    The same code gives the same text every time, as far as the sandbox can see to it: hashes and `random` are seeded,
    frames name only `program.py`, every address that follows " at " is printed as `0x...`, and the folder of a program
    has the same name. What a program takes from elsewhere still differs: time, `id()` and orders that depend on it,
    process, thread and user ids, `os.urandom` and what it seeds (NumPy's generators, `tempfile`'s names), races of its
    own threads; and how far a program came that was killed at a limit.
    """

    def __init__(self, sandbox: LocalSandbox, tier: Tier) -> None:
        """Use `LocalSandbox.start`."""
        self.isolation = Isolation[tier.name]
        self._slow_modules = sandbox.preloaded
        self._link = Link(sandbox.settings(tier))
        self._shut_down = weakref.finalize(self, self._link.close)
        self._session_numbers = itertools.count(1)
        try:
            self._link.connection()
        except OSError:
            self._shut_down()
            raise

    @property
    def facts(self) -> Facts:
        """What the broker says of itself."""
        return self._link.facts

    def warm_up(self) -> str:
        """Has the slow modules imported; what went wrong, or nothing."""
        if not self._slow_modules:
            return ""
        code = "import " + ", ".join(self._slow_modules)
        _, reply = self._link.connection().ask({"run": {"code": code, "is_traceback": False, "shows_value": False}})
        message = reply.result()
        return message.get("failure") or message["result"]["stderr"].strip()

    async def run(
        self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback, *, shows_value: bool = False
    ) -> ProgramResult:
        """Runs `code` as a program of its own, in an empty folder.

        A broker that fails is replaced and the program is tried once more; then the status is `infrastructure` and
        `stderr` names the failure. Cancelling kills the program.

        Raises:
            RuntimeError: The pool is closed.
        """
        return await LocalSession(self).run(code, error_detail, shows_value=shows_value)

    def session(self) -> "LocalSession":
        """An interpreter that gives each program the variables and files of those before it; the caller closes it."""
        return LocalSession(self, number=next(self._session_numbers))

    async def close(self) -> None:
        """Kills what still runs and ends the broker; safe to call twice. An unclosed pool is closed at exit."""
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """`close`, for who has no event loop."""
        self._shut_down()


class LocalSession:
    """Programs one after the other; without a number each of them in a process of its own.

    A program that ends its process, or is killed at a limit, takes the variables with it: the next begins anew. What
    fails through no fault of its own is tried again only while there are no variables to lose.
    """

    def __init__(self, pool: LocalPool, number: int | None = None) -> None:
        """Use `LocalPool.session`."""
        self._pool = pool
        self._link = pool._link
        self._place = {} if number is None else {"session": number}
        self._number = number
        self._connection: Connection | None = None
        """The broker that has the variables."""
        self._is_closed = False
        self._asked: Connection | None = None
        """The broker that knows of the session."""

    async def run(
        self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback, *, shows_value: bool = False
    ) -> ProgramResult:
        """Runs `code`; see `LocalPool.run`."""
        if not self._pool._shut_down.alive:
            raise RuntimeError("the sandbox pool is closed")
        if self._is_closed:
            raise RuntimeError("the session is closed")
        is_traceback = ErrorDetail(error_detail) is ErrorDetail.traceback
        request = {"code": code, "is_traceback": is_traceback, "shows_value": shows_value}
        started, failure = time.monotonic(), ""
        for _ in range(NUM_TRIES):
            try:
                connection = self._link.live or await asyncio.to_thread(self._link.connection)
                if self._connection not in (None, connection):
                    raise ConnectionError("the sandbox's broker is gone, and the variables of a session with it")
                self._asked = connection
                result = await self._ask(connection, request)
            except OSError as error:
                failure = f"{type(error).__name__}: {error}"
                if self._connection is not None or self._is_closed:
                    break
            else:
                has_variables = self._number is not None and not result["has_ended"]
                self._connection = connection if has_variables else None
                return ProgramResult(**{**result, "status": ToolStatus(result["status"])})
        wall_s = time.monotonic() - started
        return ProgramResult(status=ToolStatus.infrastructure, stdout="", stderr=failure, wall_s=wall_s)

    async def close(self) -> None:
        """Ends the process, and what runs in it; safe to call twice."""
        self._is_closed = True
        if self._asked is not None and self._number is not None:
            self._asked.say({"close": self._number})
        self._asked = self._connection = None

    async def _ask(self, connection: Connection, request: dict[str, Any]) -> dict[str, Any]:
        number, reply = connection.ask({"run": request, **self._place})
        try:
            message = await asyncio.wrap_future(reply)
        except asyncio.CancelledError:
            connection.say({"cancel": number})
            raise
        if "failure" in message:
            raise OSError(message["failure"])
        return message["result"]
