"""A warm interpreter that forks one child for each program: the far side of `turnwise.env.sandbox.local`.

Run as a script, which leaves nothing of turnwise where a program would find it. It reads requests `{"code",
"is_traceback", "shows_value"}` and answers `{"status", "output", "wall_s"}`, one at a time. The process that reads and
answers never runs a program itself; the child that does is cut off from the protocol, limited, and killed together with
everything that it started. End of input, SIGTERM or the trainer's death end the worker cleanly.
"""

import contextlib
import gc
import importlib
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from turnwise.env.sandbox.isolation import (
    Tier,
    become,
    close_files,
    die_with_parent,
    enter_namespaces,
    libc,
    limit,
    prepare_landlock,
    program_user,
    restrict_calls,
    restrict_files,
)
from turnwise.env.sandbox.messages import read_message, write_message
from turnwise.env.sandbox.program import ERROR_FD, USER_ERROR_EXIT, classify, run_program

HOME = "home"
"""The folder of a program, the same name for every one: it can print it."""
PRELOADED = ("cmath", "datetime", "decimal", "fractions", "heapq", "itertools", "statistics", "string", "textwrap")
READY = b"\0"
"""What a child writes once it is set up: a failure before is not the program's."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the trainer tells a worker at its start; its limits are those of `LocalSandbox`."""

    folder: str
    wall_s: float
    cpu_s: float
    memory_mb: int
    file_mb: int
    max_open_files: int
    max_processes: int
    max_capture_bytes: int
    scratch_mb: int
    tier: str
    preloaded: list[str]
    """Modules that the worker imports beforehand, where they are installed."""
    forbidden: str
    """The filter of calls, in hexadecimal digits."""


def remove_folder(folder: str) -> None:
    """Removes `folder` and what is in it; `rm` copes with trees too deep for recursion in Python."""
    try:
        Path(folder).rmdir()
    except FileNotFoundError:
        return
    except OSError:
        remove = 'rm -rf -- "$0" || { chmod -R u+rwx -- "$0"; rm -rf -- "$0"; }'  # its owner may be shut out of it
        subprocess.run(["sh", "-c", remove, folder], stderr=subprocess.DEVNULL, check=False)


def main(settings: Settings) -> None:
    """Answers requests until the trainer closes the pipe, asks for the end or dies."""
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        die_with_parent(signal.SIGTERM)
        libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of a program come here and not to init
        requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        for name in (*PRELOADED, *settings.preloaded):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        user = None
        if settings.tier != Tier.unsafe:
            Path(settings.folder).chmod(0o711)  # for the user that programs run as
            user = program_user(settings.folder)
        if settings.tier != Tier.A:
            _serve(requests, replies, settings, user)
            return
        try:
            enter_namespaces()
            die_with_parent(signal.SIGTERM)  # which the change of rights undid
        except OSError as error:
            _say_failure(replies, error)
        else:
            _keep(lambda: _serve(requests, replies, settings, user))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _kill_stragglers()
        remove_folder(settings.folder)


def _keep(serve: Callable[[], None]) -> None:
    """Has a child serve as the first process of a namespace, which gets no signal from within; all end with it."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            die_with_parent()
            serve()
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    try:
        os.waitpid(pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _serve(requests: IO[bytes], replies: IO[bytes], settings: Settings, user: int | None) -> None:
    """Says what failed, or nothing, and then answers request by request."""
    try:
        settings = replace(settings, max_processes=settings.max_processes + _count_own_tasks())
        if settings.tier == Tier.A:
            close_files(settings.folder, settings.scratch_mb)
        if settings.tier != Tier.unsafe:
            prepare_landlock()
    except (OSError, ImportError) as error:
        _say_failure(replies, error)
        return
    _say_failure(replies, None)
    forget_origin()
    gc.collect()
    gc.freeze()  # the collector leaves shared pages alone, so that children copy fewer of them
    with contextlib.suppress(EOFError):
        while True:
            write_message(replies, run(read_message(requests), settings, user))


def _say_failure(replies: IO[bytes], error: Exception | None) -> None:
    """The first message: why no request will be answered, or that nothing is in the way."""
    write_message(replies, {"failure": f"{type(error).__name__}: {error}" if error else ""})


def forget_origin() -> None:
    """Leaves nothing of turnwise where a program would find it."""
    source = os.environ.pop("PYTHONPATH", "")
    sys.path[:] = [path for path in sys.path if path != source]
    for name in [name for name in sys.modules if name.partition(".")[0] == "turnwise"]:
        del sys.modules[name]


def run(request: dict[str, Any], settings: Settings, user: int | None = None) -> dict[str, Any]:
    """Runs one program in a child of its own and leaves neither a process nor a file of it.

    Raises:
        RuntimeError: The child failed before the program began.
    """
    start = time.monotonic()
    folder = f"{settings.folder}/{HOME}"
    Path(folder).mkdir(mode=0o700)
    if user is not None:
        os.chown(folder, user, user)
    output_fd, child_fd = os.pipe()
    os.set_blocking(output_fd, False)
    captured, max_bytes = bytearray(), len(READY) + settings.max_capture_bytes
    worker_pid, pid = os.getpid(), os.fork()
    if pid == 0:
        code = USER_ERROR_EXIT
        try:
            _enter_child(settings, worker_pid, folder, child_fd, user)
            code = run_program(request["code"], request["is_traceback"], request["shows_value"])
        finally:  # whatever happens, the worker's own course does not go on in the child
            os._exit(code)
    os.close(child_fd)
    try:
        limit_hit = _watch(pid, output_fd, captured, start + settings.wall_s, max_bytes)
    finally:
        os.kill(pid, signal.SIGKILL)  # alone as well, for it may not have made its group yet
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # at one stroke: its members cannot fork faster than they are killed
    _read_available(output_fd, captured, max_bytes)
    os.close(output_fd)
    _, wait_status, usage = os.wait4(pid, 0)
    _kill_stragglers()
    remove_folder(folder)
    if not captured.startswith(READY):
        raise RuntimeError(f"the sandbox could not set up a child, wait status {wait_status}")
    if len(captured) > max_bytes:
        limit_hit = "output_limit"
    elif usage.ru_utime + usage.ru_stime >= settings.cpu_s:
        limit_hit = "timeout"
    output = captured[len(READY) : max_bytes].decode(errors="replace")
    status, output = (limit_hit, output) if limit_hit else classify(wait_status, output)
    return {"status": status, "output": output, "wall_s": time.monotonic() - start}


def _watch(pid: int, output_fd: int, captured: bytearray, deadline: float, max_bytes: int) -> str | None:
    """Collects output until the program exits (None) or breaks a limit (the status that says which).

    Waits for the exit of the process and not for the end of its output, which a grandchild may hold open.
    """
    exit_fd = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(exit_fd, select.POLLIN)
    poller.register(output_fd, select.POLLIN)
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            ready = [fd for fd, _ in poller.poll(left_s * 1000)]
            if output_fd in ready and not _read_available(output_fd, captured, max_bytes):
                poller.unregister(output_fd)
            if len(captured) > max_bytes:
                return "output_limit"
            if exit_fd in ready:
                return None
        return "timeout"
    finally:
        os.close(exit_fd)


def _read_available(fd: int, captured: bytearray, max_bytes: int) -> bool:
    """Moves what the pipe holds to `captured`, until that exceeds `max_bytes`; False when no more can come."""
    with contextlib.suppress(BlockingIOError):
        while len(captured) <= max_bytes:
            chunk = os.read(fd, 65536)
            if not chunk:
                return False
            captured += chunk
    return True


def _kill_stragglers() -> None:
    """Kills and reaps whatever lives on below this process, whatever group or session it moved to."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                is_first = os.getpid() == 1  # of its namespace: all others there are below it
                for child in [-1] if is_first else map(int, children.read_text().split()):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(child, signal.SIGKILL)
                os.waitpid(-1, 0)


def _count_own_tasks() -> int:
    """Processes and threads of this user: the kernel counts them all against RLIMIT_NPROC."""
    count = 0
    for tasks in Path("/proc").glob("[0-9]*/task"):
        with contextlib.suppress(OSError):
            count += len(list(tasks.iterdir())) if tasks.stat().st_uid == os.getuid() else 0
    return count


def _enter_child(settings: Settings, worker_pid: int, folder: str, output_fd: int, user: int | None) -> None:
    """Cuts the child off from the worker, limits it and takes its rights away."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for fd in (1, 2, ERROR_FD):
        os.dup2(output_fd, fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the worker's own would keep flags and locks for the next program
    os.closerange(ERROR_FD + 1, 1024)  # the protocol pipes among them
    os.chdir(folder)
    os.environ["HOME"] = os.environ["TMPDIR"] = folder
    limit(resource.RLIMIT_AS, settings.memory_mb << 20)
    limit(resource.RLIMIT_CPU, math.ceil(settings.cpu_s), spare=1)  # SIGXCPU first: its SIGKILL is like any other
    limit(resource.RLIMIT_FSIZE, settings.file_mb << 20)
    limit(resource.RLIMIT_NOFILE, settings.max_open_files)
    limit(resource.RLIMIT_NPROC, settings.max_processes)
    limit(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError):  # where there is no /proc
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, it goes before worker and trainer
    if settings.tier != Tier.unsafe:
        become(user)
        restrict_files(folder, sees_processes=settings.tier == Tier.A)
    die_with_parent()
    if os.getppid() != worker_pid:
        raise ProcessLookupError("the worker is gone")
    if settings.tier != Tier.unsafe:
        restrict_calls(bytes.fromhex(settings.forbidden))
    os.write(1, READY)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    main(Settings(**json.loads(sys.argv[1])))
