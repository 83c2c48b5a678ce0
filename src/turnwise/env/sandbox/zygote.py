"""A warm interpreter that forks a process for each program or session: what the broker starts, as a script.

It never sees a program: what it forks gets its programs from the broker. So there is nothing in its memory, which every
process inherits, but Python and the modules that it has imported beforehand. It answers on a socket of packets:

    settings                                    from the broker, first
    {"failure": text, "is_root"}                then: why nothing can be forked, or nothing; if programs are root's
    {"number", "once"} and three descriptors    from the broker: control socket, output, error output
    {"started": number} and a pidfd             it is there
    {"ended": number, "exit_code", "cpu_s"}     it has been waited for; or {"failure": text, "ended": number}
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from turnwise.env.sandbox.child import Place, live
from turnwise.env.sandbox.isolation import (
    CAP_DAC_READ_SEARCH,
    Tier,
    adopt_orphans,
    die_with_parent,
    enter_namespaces,
    enter_root,
    first_user,
    fork_first,
    has_capability,
    kill_orphans,
    others_can_enter,
    prepare_landlock,
)
from turnwise.env.sandbox.settings import HOME, SHOWN_FOLDER, Settings

PRELOADED = ("cmath", "datetime", "decimal", "fractions", "heapq", "itertools", "statistics", "string", "textwrap")
COMPANIONS = {"numpy": ("numpy.fft", "numpy.linalg", "numpy.polynomial", "numpy.random")}
"""Parts that a module imports when they are first used, and that programs would each import anew."""
MAX_PACKET_BYTES, MAX_SETTINGS_BYTES = 1 << 12, 1 << 17
leave = os._exit
"""Bound here: a program may put something else in its place."""
SETUP_EXIT = 70
"""Exit code of a child that could not be set up; one that says it was (`READY`) may have its own reasons."""


def main(channel: socket.socket, folder: str, modules: list[str]) -> None:
    """Forks until the broker closes the socket or dies."""
    os.dup2(2, 1)
    die_with_parent()
    if not (told := channel.recv(MAX_SETTINGS_BYTES)):
        return
    settings = Settings(**json.loads(told))
    name = ""
    try:
        for name in (*PRELOADED, *modules):
            for one in (name, *COMPANIONS.get(name, ())):
                importlib.import_module(one)
    except Exception as error:
        _say(channel, {"failure": f"{name} cannot be imported: {type(error).__name__}: {error}", "is_root": False})
        return
    if "numpy" in sys.modules:  # with a state of chance, all programs had the same one
        sys.modules["numpy"].random.seed(0)
    num_tasks = _count_own_tasks()
    user = None if settings.tier == Tier.unsafe else first_user()
    try:
        if settings.tier != Tier.unsafe:
            prepare_landlock()
        if settings.tier == Tier.A:
            enter_namespaces()
            _go_on_as_first()
            enter_root(folder, f"{SHOWN_FOLDER}/{HOME}")
    except (OSError, ImportError, KeyError) as error:
        _say(channel, {"failure": f"{type(error).__name__}: {error}", "is_root": False})
        return
    paths = (sys.prefix, sys.base_prefix) if settings.tier == Tier.A else (sys.prefix, sys.base_prefix, folder)
    may_enter = user is not None and not others_can_enter(paths)
    if may_enter and not has_capability(CAP_DAC_READ_SEARCH):
        user, may_enter = None, False
    place = Place(
        home=f"{SHOWN_FOLDER}/{HOME}" if settings.tier == Tier.A else folder,
        user=user,
        may_enter=may_enter,
        num_tasks=num_tasks,
        address_space=int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize(),
        parent=0 if settings.tier == Tier.A else os.getpid(),
    )
    _forget_origin()
    gc.collect()
    gc.freeze()  # the collector leaves shared pages alone, so that children copy fewer of them
    Zygote(channel, settings, place).serve()


class Zygote:
    """The processes that it has forked, by their pidfds."""

    def __init__(self, channel: socket.socket, settings: Settings, place: Place) -> None:
        self._channel = channel
        self._settings = settings
        self._place = place
        self._children: dict[int, tuple[int, int]] = {}
        self._own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._poller = select.poll()
        self._poller.register(channel, select.POLLIN)

    def serve(self) -> None:
        """Forks what is asked for and waits for what ends, until the broker is gone."""
        adopt_orphans()
        is_root = os.geteuid() == 0 and self._place.user is None
        _say(self._channel, {"failure": "", "is_root": is_root})
        while True:
            for fd, _ in self._poller.poll():
                if fd != self._channel.fileno():
                    self._reap(fd)
                elif not self._fork_next():
                    return

    def _fork_next(self) -> bool:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._channel, MAX_PACKET_BYTES, 3)
        except ConnectionResetError:  # the broker was killed
            return False
        if not packet:
            return False
        request = json.loads(packet)
        try:
            pid, pidfd = self._fork(request, descriptors)
        except OSError as error:
            _say(self._channel, {"failure": f"{type(error).__name__}: {error}", "ended": request["number"]})
        else:
            self._children[pidfd] = request["number"], pid
            self._poller.register(pidfd, select.POLLIN)
            socket.send_fds(self._channel, [json.dumps({"started": request["number"]}).encode()], [pidfd])
        for one in descriptors:
            os.close(one)
        return True

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> tuple[int, int]:
        settings, place = self._settings, self._place
        if place.user is not None:
            place = replace(place, user=place.user + request["number"])
        if settings.tier != Tier.A:
            place = replace(place, home=f"{place.home}/{request['number']}")
            Path(place.home).mkdir(mode=0o700, parents=True)
            if place.user is not None:
                os.chown(place.home, place.user, place.user)
        pid = fork_first(self._own_namespace) if settings.tier == Tier.A else os.fork()
        if pid == 0:
            code = SETUP_EXIT
            try:
                code = live(settings, place, descriptors, once=request["once"])
            except Exception:
                traceback.print_exc()
            finally:  # whatever happens, this process does not go on as a zygote
                leave(code)
        try:
            return pid, os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def _reap(self, pidfd: int) -> None:
        number, pid = self._children.pop(pidfd)
        self._poller.unregister(pidfd)
        os.close(pidfd)
        if self._settings.tier == Tier.unsafe:  # elsewhere nothing can live on
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # at one stroke: its members cannot fork faster than they are killed
        _, status, usage = os.wait4(pid, 0)
        if self._settings.tier == Tier.unsafe:
            running = {pid for _, pid in self._children.values()}
            kill_orphans(running.__contains__)
        cpu_s = usage.ru_utime + usage.ru_stime
        _say(self._channel, {"ended": number, "exit_code": os.waitstatus_to_exitcode(status), "cpu_s": cpu_s})


def _go_on_as_first() -> None:
    """Goes on as the first process of a PID namespace; this one waits for its end, and ends with it."""
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        return
    die_with_parent()  # which the change of rights undid
    os.close(0)
    os.waitpid(pid, 0)
    os._exit(0)


def _say(channel: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next thing to be read is the end
        channel.send(json.dumps(message).encode())


def _forget_origin() -> None:
    """Leaves nothing of turnwise where a program would find it."""
    source = os.environ.pop("PYTHONPATH", "")
    if source in sys.path:  # once: where turnwise is installed, its place among the packages stays
        sys.path.remove(source)
    sys.orig_argv[:] = sys.orig_argv[:1]
    for name in [name for name in sys.modules if name.partition(".")[0] == "turnwise"]:
        del sys.modules[name]


def _count_own_tasks() -> int:
    """Processes and threads of this user: the kernel counts them all against RLIMIT_NPROC."""
    count = 0
    for tasks in Path("/proc").glob("[0-9]*/task"):
        with contextlib.suppress(OSError):
            count += len(list(tasks.iterdir())) if tasks.stat().st_uid == os.getuid() else 0
    return count


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    main(socket.socket(fileno=0), sys.argv[1], sys.argv[2:])
