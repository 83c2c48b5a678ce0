"""A warm interpreter that forks one child for each program: the far side of `turnwise.env.sandbox.local`.

Run as a script with the standard library alone. It reads requests `{"code", "is_traceback"}` and answers
`{"status", "output", "wall_s"}` as length-prefixed JSON, one at a time. The process that reads and answers
never runs a program itself; the child that does is cut off from the protocol, limited, and killed together
with everything that it started. End of input, SIGTERM or the trainer's death end the worker cleanly.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import linecache
import math
import os
import random
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

PROGRAM, HOME = "program.py", "home"  # the same names for every program: it can print them
PRELOADED = ("cmath", "datetime", "decimal", "fractions", "heapq", "itertools", "statistics", "string", "textwrap")
USER_ERROR_EXIT, MEMORY_EXIT = 1, 86
ERROR_FD = 3  # a child's second way to its output: an exception is told even where the program closed the first
READY = b"\0"  # what a child writes once it is set up: a failure before is not the program's
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


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


def read_message(stream: IO[bytes]) -> dict[str, Any]:
    """One message; raises EOFError when the other side is gone and ValueError when it left in the middle."""
    header = stream.read(4)
    if len(header) < 4:
        raise EOFError("the other side is gone")
    return json.loads(stream.read(int.from_bytes(header, "big")))


def write_message(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Sends one message."""
    payload = json.dumps(message).encode()
    stream.write(len(payload).to_bytes(4, "big") + payload)
    stream.flush()


def remove_folder(folder: str) -> None:
    """Removes `folder` and what is in it; `rm` copes with trees too deep for recursion in Python."""
    try:
        Path(folder).rmdir()
    except FileNotFoundError:
        return
    except OSError:
        subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)


def main(settings: Settings) -> None:
    """Answers requests until the trainer closes the pipe, asks for the end or dies."""
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of a program come here and not to init
        requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        for name in PRELOADED:
            importlib.import_module(name)
        settings = replace(settings, max_processes=settings.max_processes + _count_own_tasks())
        gc.collect()
        gc.freeze()  # the collector leaves shared pages alone, so that children copy fewer of them
        with contextlib.suppress(EOFError):
            while True:
                request = read_message(requests)
                write_message(replies, run(request, settings))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _kill_stragglers()
        remove_folder(settings.folder)


def run(request: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Runs one program in a child of its own and leaves neither a process nor a file of it.

    Raises:
        RuntimeError: The child failed before the program began.
    """
    start = time.monotonic()
    folder = f"{settings.folder}/{HOME}"
    Path(folder).mkdir()
    output_fd, child_fd = os.pipe()
    os.set_blocking(output_fd, False)
    captured, max_bytes = bytearray(), len(READY) + settings.max_capture_bytes
    worker_pid, pid = os.getpid(), os.fork()
    if pid == 0:
        code = USER_ERROR_EXIT
        try:
            _enter_child(settings, worker_pid, folder, child_fd)
            code = _run_program(request["code"], request["is_traceback"])
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
    status, output = (limit_hit, output) if limit_hit else _classify(wait_status, output)
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


def _classify(wait_status: int, output: str) -> tuple[str, str]:
    """Status and output of a program that ended by itself, or by a signal that the worker did not send."""
    code = os.waitstatus_to_exitcode(wait_status)
    if code == 0:
        return "ok", output
    if code in (MEMORY_EXIT, -signal.SIGKILL):  # nobody but the kernel, out of memory, kills like this
        return "memory", output
    if code < 0:
        return "user_error", f"{output}Error: killed by signal {-code}\n"
    return "user_error", output or f"Error: exit code {code}\n"


def _kill_stragglers() -> None:
    """Kills and reaps whatever lives on below this process, whatever group or session it moved to."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                for child in children.read_text().split():
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(int(child), signal.SIGKILL)
                os.waitpid(-1, 0)


def _count_own_tasks() -> int:
    """Processes and threads of this user: the kernel counts them all against RLIMIT_NPROC."""
    count = 0
    for tasks in Path("/proc").glob("[0-9]*/task"):
        with contextlib.suppress(OSError):
            count += len(list(tasks.iterdir())) if tasks.stat().st_uid == os.getuid() else 0
    return count


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def _enter_child(settings: Settings, worker_pid: int, folder: str, output_fd: int) -> None:
    """Cuts the child off from the worker and limits it."""
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker_pid:
        raise ProcessLookupError("the worker is gone")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for fd in (1, 2, ERROR_FD):
        os.dup2(output_fd, fd)
    os.closerange(ERROR_FD + 1, 1024)  # the protocol pipes among them
    os.chdir(folder)
    os.environ["HOME"] = os.environ["TMPDIR"] = folder
    for limit, value in (
        (resource.RLIMIT_AS, settings.memory_mb << 20),
        (resource.RLIMIT_CPU, math.ceil(settings.cpu_s)),
        (resource.RLIMIT_FSIZE, settings.file_mb << 20),
        (resource.RLIMIT_NOFILE, settings.max_open_files),
        (resource.RLIMIT_NPROC, settings.max_processes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    os.write(1, READY)


def _run_program(source: str, is_traceback: bool) -> int:
    """Runs `source` as a fresh `__main__` and returns the exit code; ends the output with an uncaught exception."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = [PROGRAM]
    linecache.cache[PROGRAM] = (len(source), None, source.splitlines(keepends=True), PROGRAM)
    random.seed(0)
    code, message = 0, ""
    try:
        exec(compile(source, PROGRAM, "exec", dont_inherit=True), module.__dict__)
    except MemoryError:
        code = MEMORY_EXIT
    except BaseException as error:
        if not (isinstance(error, SystemExit) and error.code in (None, 0)):
            code, message = USER_ERROR_EXIT, _describe(error, is_traceback)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(Exception):  # the program may have closed or replaced them
            stream.flush()  # pyright: ignore[reportOptionalMemberAccess]
    with open(ERROR_FD, "w", encoding="utf-8", errors="backslashreplace") as error_stream:
        error_stream.write(message)
    return code


def _describe(error: BaseException, is_traceback: bool) -> str:
    """The error as Python prints it, with the program's own frames alone, or only the last line.

    Made here and not by `traceback`, whose suggestions ("Did you mean ...?") and markers differ between versions.
    """
    name = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "__main__"):
        name = f"{type(error).__module__}.{name}"
    try:
        text = str(error)
    except Exception:
        text = "<exception str() failed>"
    last_line = f"{name}: {text}\n" if text else f"{name}\n"
    if not is_traceback:
        return last_line
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == PROGRAM]
    places = traceback.StackSummary.from_list([(f.filename, f.lineno or 0, f.name, f.line) for f in frames])
    return "".join(["Traceback (most recent call last):\n", *places.format(), last_line])


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    main(Settings(**json.loads(sys.argv[1])))
