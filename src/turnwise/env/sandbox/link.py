"""The trainer's side of a broker (`turnwise.env.sandbox.broker`): starts it or joins it, asks it, ends it."""

import contextlib
import dataclasses
import fcntl
import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from turnwise.env.sandbox import broker as broker_script
from turnwise.env.sandbox.cgroup import remove_groups
from turnwise.env.sandbox.isolation import Lacking
from turnwise.env.sandbox.messages import encode, take
from turnwise.env.sandbox.settings import Settings, clean_environment

START_S = 90.0
"""How long a broker may take to start, on a busy machine."""
STALL_S = 30.0
"""How long a broker may say nothing when it is asked for a sign of life."""
GRACE_S, SHARED_GRACE_S = 10.0, 0.5
"""How long a broker may take to end when nobody needs it any more; and one that others may need."""
CHUNK_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Launched:
    """A broker that this process has started."""

    process: subprocess.Popen[bytes]
    folder: str
    is_shared: bool

    def end(self) -> None:
        """Waits for the end of a broker that nobody is connected to; one that others may share is left to them."""
        try:
            self.process.wait(SHARED_GRACE_S if self.is_shared else GRACE_S)
        except subprocess.TimeoutExpired:
            if self.is_shared:
                return
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.process.returncode != 0:  # it could not clean up after itself
            shutil.rmtree(self.folder, ignore_errors=True)
            remove_groups(self.process.pid)


class Connection:
    """A broker that is there, and what it was asked. Callers may be in any thread."""

    def __init__(self, ours: socket.socket, launched: Launched | None, received: bytearray) -> None:
        """Use `connect`."""
        self.is_lost = False
        self._socket = ours
        self._launched = launched
        self._received = received
        self._lock = threading.Lock()
        self._asked: dict[int, Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._backlog = bytearray()
        self._waker = os.eventfd(0)
        LIVE.add(self)
        self._thread = threading.Thread(target=self._hear, name="sandbox", daemon=True)
        self._thread.start()

    def ask(self, message: dict[str, Any]) -> tuple[int, Future[dict[str, Any]]]:
        """The number of a question, to `cancel` it by, and what will be the broker's reply.

        The reply has a `result` or a `failure`.
        """
        number, reply = next(self._numbers), Future[dict[str, Any]]()
        self._asked[number] = reply
        if self.is_lost:
            self._lose("the sandbox's broker is gone")
        self.say({"id": number, **message})
        return number, reply

    def say(self, message: dict[str, Any]) -> None:
        """Sends a message, at once or when the broker takes it; where nobody hears it, nothing happens."""
        with self._lock, contextlib.suppress(OSError):  # the broker is gone, which the thread finds out
            self._backlog += encode(message)
            self._send()
            if self._backlog:
                os.eventfd_write(self._waker, 1)

    def _send(self) -> None:
        """Sends what the socket takes; the lock is held."""
        with contextlib.suppress(BlockingIOError):
            while self._backlog:
                del self._backlog[: self._socket.send(self._backlog, socket.MSG_DONTWAIT)]

    def leave_to_parent(self) -> None:
        """Closes a fork's copy of the socket: it would keep the broker alive when the trainer is gone."""
        self.is_lost = True
        self._socket.close()
        os.close(self._waker)
        self._waker = -1

    def close(self) -> None:
        """Leaves the broker, and waits for the end of one that only this connection had."""
        self._lose("the sandbox was closed")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._socket.close()
        if self._waker >= 0:
            os.close(self._waker)
            self._waker = -1
        if self._launched is not None:
            self._launched.end()

    def _hear(self) -> None:
        """Takes in replies, sends what could not be sent at once, and gives up a broker that does not answer."""
        patience = select.poll()
        patience.register(self._waker, select.POLLIN)
        is_pinged = False
        with contextlib.suppress(OSError, ValueError):
            while True:
                patience.register(self._socket, select.POLLIN | (select.POLLOUT if self._backlog else 0))
                ready = dict(patience.poll(STALL_S * 1000))
                if not ready:
                    if self._asked and is_pinged:
                        return self._lose(f"the sandbox's broker gave no sign of life for {STALL_S:g} s")
                    is_pinged = bool(self._asked)
                    self.say({"ping": 0})
                    continue
                if self._waker in ready:
                    os.eventfd_read(self._waker)
                events = ready.get(self._socket.fileno(), 0)
                if events & select.POLLOUT:
                    with self._lock:
                        self._send()
                if events & ~select.POLLOUT:
                    is_pinged = False
                    if not (chunk := self._socket.recv(CHUNK_BYTES)):
                        break
                    self._received += chunk
                    while (message := take(self._received)) is not None:
                        if (reply := self._asked.pop(message.get("id", 0), None)) is not None:
                            _settle(reply, message)
        return self._lose("the sandbox's broker is gone")

    def _lose(self, why: str) -> None:
        self.is_lost = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        while self._asked:
            with contextlib.suppress(KeyError):  # another thread was quicker
                _settle(self._asked.popitem()[1], {"failure": why})


LIVE: "weakref.WeakSet[Connection]" = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [connection.leave_to_parent() for connection in LIVE])


def _settle(reply: Future[dict[str, Any]], message: dict[str, Any]) -> None:
    if reply.set_running_or_notify_cancel():
        reply.set_result(message)


def connect(settings: Settings) -> tuple[Connection, "Facts"]:
    """A connection to a broker with these settings, and what it says of itself.

    Where `settings.socket` names a place, to the broker that is there; the first to come starts it.

    Raises:
        Lacking: This machine has no means for its tier.
        OSError: There is none to be had; says why.
    """
    with contextlib.ExitStack() as stack:
        if settings.socket:
            lock = stack.enter_context(Path(f"{settings.socket}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        launched, ours = None, _join(settings.socket)
        if ours is None:
            launched, ours = _launch(settings)
        received = bytearray()
        try:
            ours.settimeout(START_S)
            ours.sendall(encode({"hello": dataclasses.asdict(settings)}))
            while (hello := take(received)) is None:
                if not (chunk := ours.recv(CHUNK_BYTES)):
                    raise ConnectionError("it has ended")
                received += chunk
        except OSError as error:
            hello = {"failure": f"the sandbox's broker did not start: {error}", "differing": "", "lacking": ""}
        ours.settimeout(None)
        connection = Connection(ours, launched, received)
        if hello["lacking"] or hello["failure"] or hello["differing"]:
            connection.close()
            if hello["lacking"]:
                raise Lacking(hello["lacking"])
            raise OSError(hello["failure"] or f"socket={settings.socket}: the broker there has {hello['differing']}")
    return connection, Facts(tuple(hello["cgroups"]), bool(hello["runs_as_root"]))


class Facts(NamedTuple):
    """What a broker says of itself."""

    cgroups: tuple[str, ...] = ()
    """What control groups bound for all programs together: memory, pids."""
    runs_as_root: bool = False
    """Whether programs are root's, although without capabilities."""


def _join(path: str) -> socket.socket | None:
    """A socket to the broker at `path`; None where there is none."""
    if not path:
        return None
    ours = socket.socket(socket.AF_UNIX)
    try:
        ours.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        ours.close()
        return None
    return ours


def _launch(settings: Settings) -> tuple[Launched, socket.socket]:
    ours, theirs = socket.socketpair()
    folder = os.path.realpath(tempfile.mkdtemp(prefix="turnwise-sandbox-"))  # as `getcwd` has it
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-s", "-P", broker_script.__file__, folder],
                stdin=theirs.fileno(),
                env=clean_environment(),
                cwd="/",
                start_new_session=True,
            )
        ours.sendall(encode(dataclasses.asdict(settings)))
    except OSError:
        ours.close()
        shutil.rmtree(folder)
        raise
    return Launched(process, folder, is_shared=bool(settings.socket)), ours


class Link:
    """A connection that is made anew when it is lost."""

    def __init__(self, settings: Settings) -> None:
        self.facts = Facts()
        self._settings = settings
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._owner = os.getpid()

    @property
    def live(self) -> Connection | None:
        """The connection; None where one has to be made."""
        connection = self._connection
        return None if connection is None or connection.is_lost else connection

    def connection(self) -> Connection:
        """The connection, made anew where there is none, which takes a while.

        Raises:
            OSError: There is none to be had.
        """
        with self._lock:
            if self._is_closed:
                raise OSError("the sandbox was closed")
            if self._connection is not None and self._connection.is_lost:
                self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection, self.facts = connect(self._settings)
            return self._connection

    def close(self) -> None:
        """Ends what runs, and the broker; safe to call twice, and of no effect in a fork of the trainer."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._is_closed = True
            if self._connection is not None:
                self._connection.close()
            self._connection = None
