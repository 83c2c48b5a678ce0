"""What lies around the sandbox: bait of its own for every attack, and the checks that nothing of it was touched."""

import asyncio
import contextlib
import ctypes
import os
import resource
import secrets
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from turnwise.env.sandbox.local import LocalPool, LocalSession
from turnwise.types import ToolStatus

KEY = "TURNWISE_SECRET_KEY"
"""A variable of the trainer's environment that is a secret."""
TOKEN = ctypes.create_string_buffer(os.environ.setdefault(KEY, secrets.token_hex(16)).encode())
"""The same in its memory."""
SETTINGS = ("core_pattern", "hostname", "domainname", "sysrq", "printk", "randomize_va_space")
SIGNALS = (signal.SIGIO, signal.SIGURG, signal.SIGUSR1, signal.SIGUSR2)
SIBLING = """
import ctypes, os, resource
token, at_home = ctypes.create_string_buffer(os.urandom(16).hex().encode()), os.urandom(16).hex()
open("file", "w").write(at_home)
held = open("file")
ctypes.CDLL(None).prctl(15, {name!r}.encode())
print(token.value.decode(), at_home, ctypes.addressof(token))
"""
SIBLING_STATE = """
print(token.value.decode(), open("file").read(), held.read(), sorted(os.listdir()), os.getpriority(0, 0))
print(sorted(os.sched_getaffinity(0)), resource.getrlimit(resource.RLIMIT_NOFILE))
held.seek(0)
"""


class Outside:
    """What one attack could reach: files, sockets, a program beside it, the trainer, the machine."""

    def __init__(self, pool: LocalPool, temporary: Path, processes: dict[str, Any]) -> None:
        """Takes an empty folder for the bait, and the processes that a program may aim at: names of a program."""
        self._pool = pool
        self._stack = ExitStack()
        self._processes = processes
        self.folder = temporary
        self.folder.chmod(0o777)  # what keeps a program out must not be the modes
        self.secrets = {TOKEN.value.decode()}
        for name in ("secret", "run/checkpoints/last.safetensors", "run/metrics.jsonl", "gold_answers.jsonl"):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o777)
            path.write_text(token := secrets.token_hex(16))
            path.chmod(0o666)
            self.secrets.add(token)
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        hidden = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        hidden.bind(f"\0{self.folder}")
        hidden.listen()
        named = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        named.bind(f"{self.folder}/socket")
        named.listen()
        datagrams = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(f"{self.folder}/datagrams")
        packets = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        packets.bind(("127.0.0.1", 0))
        for path in ("socket", "datagrams"):
            (self.folder / path).chmod(0o666)
        self._sockets = (listener, hidden, named, datagrams, packets)
        for one in self._sockets:
            one.setblocking(False)
        self._sibling: LocalSession | None = None
        self.bait: dict[str, Any] = {
            "SECRET": f"{self.folder}/secret",
            "FOLDER": str(self.folder),
            "PORT": listener.getsockname()[1],
            "UDP_PORT": packets.getsockname()[1],
            "TRAINER": os.getpid(),
            "TRAINER_ADDRESS": ctypes.addressof(TOKEN),
            "KEY": KEY,
            **processes,
        }
        self._before: dict[str, Any] = {}

    async def prepare(self, *, with_sibling: bool) -> None:
        """Starts the program beside, and remembers how everything is."""
        if with_sibling:
            self._sibling = self._pool.session()
            name = secrets.token_hex(7)
            result = await self._sibling.run(SIBLING.format(name=name))
            if result.status is not ToolStatus.ok:
                raise ChildProcessError(f"the program beside did not start: {result.status}: {result.output}")
            told = result.stdout.split()
            self.secrets |= set(told[:2])
            pid = _process_named(name)
            self.bait |= {"SIBLING": pid, "SIBLING_HOME": os.readlink(f"/proc/{pid}/cwd")}  # noqa: PTH115
            self.bait["SIBLING_ADDRESS"] = int(told[2])
            self._before["sibling"] = await self._ask_sibling()
        self._before |= {"secret": self._files(), "trainer": _trainer(), "machine": _machine()}

    async def close(self) -> None:
        """Ends all of it."""
        if self._sibling is not None:
            await self._sibling.close()
        self._stack.close()

    def files_are_unchanged(self) -> bool:
        return self._files() == self._before["secret"]

    def nobody_called(self) -> bool:
        return not any(map(_has_heard, self._sockets))

    def trainer_is_unharmed(self) -> bool:
        return _trainer() == self._before["trainer"]

    def machine_is_unchanged(self) -> bool:
        return _machine() == self._before["machine"]

    async def sibling_is_unharmed(self) -> bool:
        return await self._ask_sibling() == self._before["sibling"]

    async def _ask_sibling(self) -> str:
        assert self._sibling is not None
        result = await self._sibling.run(SIBLING_STATE)
        return (
            f"{result.status} {result.stdout}" if result.status is ToolStatus.ok else f"{result.status} {time.time()}"
        )

    def _files(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in [self.folder, *sorted(self.folder.rglob("*"))]:
            status = path.lstat()
            text = path.read_text() if path.is_file() and os.access(path, os.R_OK) else ""
            attributes = os.listxattr(path, follow_symlinks=False)
            place = (status.st_ino, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns)
            found[str(path)] = (*place, text, attributes)
        return found


def _process_named(name: str) -> int:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == name:
                return process.pid
    raise ProcessLookupError(name)


def _has_heard(one: socket.socket) -> bool:
    try:
        if one.type == socket.SOCK_DGRAM:
            one.recv(1)
        else:
            one.accept()[0].close()
    except BlockingIOError:
        return False
    return True


heard: list[int] = []


def listen_for_signals() -> None:
    """Has every signal that somebody might have sent to this process noted: in `heard`."""
    for number in SIGNALS:
        signal.signal(number, lambda one, _: heard.append(one))


def _trainer() -> list[Any]:
    limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_AS)]
    scheduling = [os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)]
    return [list(heard), limits, scheduling, os.environ[KEY], TOKEN.value, Path("/proc/self/oom_score_adj").read_text()]


def _machine() -> list[Any]:
    paths = [Path(f"/proc/sys/kernel/{name}") for name in SETTINGS]
    settings = [path.read_text() for path in paths if path.exists()]
    return [settings, round((time.time() - time.monotonic()) / 60), os.sched_getscheduler(1)]


CHECKS: dict[str, Callable[[Outside], Any]] = {
    "files unchanged": Outside.files_are_unchanged,
    "nobody called": Outside.nobody_called,
    "trainer unharmed": Outside.trainer_is_unharmed,
    "machine unchanged": Outside.machine_is_unchanged,
    "sibling unharmed": Outside.sibling_is_unharmed,
}
"""What an attack may say must hold."""


async def broken(outside: Outside, names: tuple[str, ...]) -> list[str]:
    """Those of the checks that fail."""
    found: list[str] = []
    for name in names:
        held = CHECKS[name](outside)
        if not (await held if asyncio.iscoroutine(held) else held):
            found.append(f"not true afterwards: {name}")
    return found
