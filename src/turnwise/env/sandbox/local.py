"""Runs Python programs in a warm pool of separate processes, under limits, with nothing left behind.

Each worker (`turnwise.env.sandbox.worker`) is an interpreter that has started already and forks a child for each
program, several times cheaper than a new interpreter. Contained are time, memory of each process, output,
crashes, leftover processes and files. Not contained: a program has the user's rights, files and network.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnwise.env.sandbox import worker as worker_script
from turnwise.env.sandbox.interface import ErrorDetail
from turnwise.types import ToolResult, ToolStatus

GRACE_S = 5.0
"""How long a worker may take over a program's time limit to clean up and answer, and to end when asked to."""

SHOWN_FOLDER = "/tmp/sandbox"
"""What the random folder of a worker is called in output; a program runs in `home` below it."""


@dataclass(frozen=True, kw_only=True)
class LocalSandbox:
    """Limits of a program and the number of processes that run them."""

    num_workers: int = 2
    """Programs that run at the same time, each in a warm process of its own."""

    wall_s: float = 5.0
    """Seconds until a program is killed."""

    cpu_s: float = 5.0
    """Seconds of processor time for each process of a program; the kernel counts whole seconds, rounded up."""

    memory_mb: int = 1024
    """Address space of each process of a program, in MiB."""

    file_mb: int = 16
    """Largest file that a program may write, in MiB."""

    max_open_files: int = 64
    """File descriptors of each process of a program."""

    max_processes: int = 256
    """Processes and threads that a program may add to those its user has; the kernel exempts root."""

    max_capture_bytes: int = 65536
    """Bytes of output that are kept; a program that prints more is killed."""

    def __post_init__(self) -> None:
        for name, low in (
            ("num_workers", 1),
            ("wall_s", 0.05),
            ("cpu_s", 0.05),
            ("memory_mb", 64),
            ("file_mb", 0),
            ("max_open_files", 16),
            ("max_processes", 0),
            ("max_capture_bytes", 64),
        ):
            if not low <= (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"{name}={value}: expected a finite number >= {low}")

    def start(self) -> "LocalPool":
        """Starts the workers; the caller closes the pool."""
        return LocalPool(self)


class LocalPool:
    """Warm workers behind a queue. Any number of `run` may be under way, from any event loop."""

    def __init__(self, sandbox: LocalSandbox) -> None:
        workers = [_Worker(sandbox) for _ in range(sandbox.num_workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(sandbox.num_workers, thread_name_prefix="sandbox")
        self._shut_down = weakref.finalize(self, _shut_down, self._threads, workers, os.getpid())
        for worker in workers:
            self._idle.put(worker)
            # A worker dies with the thread that started it: these threads live as long as the pool.
            self._threads.submit(worker.start)

    async def run(self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback) -> ToolResult:
        """Runs `code` as a program and returns its status and whatever it printed, an uncaught exception at the end.

        The value of a last expression is not printed. A worker that fails is replaced and the program is tried
        once more; then the status is `infrastructure` and the output names the failure. Cancelling abandons
        the result; the program itself still ends within its limits.

        The same code gives the same text in every worker, as far as the sandbox can see to it: hashes and
        `random` are seeded, frames name only `program.py`, every address that follows " at " is printed as
        `0x...`, and the path of the sandbox's folder as `SHOWN_FOLDER`. What a program takes from elsewhere
        still differs: time, `id()` and orders that depend on it, process and thread ids, `os.urandom` and what
        it seeds (NumPy's generators, `tempfile`'s names), parts of the folder's path, races of its own threads,
        files, the network; and how far a program came that was killed at a limit.

        Raises:
            RuntimeError: The pool is closed.
        """
        if not self._shut_down.alive:
            raise RuntimeError("the sandbox pool is closed")
        request = {"code": code, "is_traceback": error_detail is ErrorDetail.traceback}
        return await asyncio.get_running_loop().run_in_executor(self._threads, _run, self._idle, request)

    async def close(self) -> None:
        """Kills what still runs and ends every worker; safe to call twice. An unclosed pool is closed at exit."""
        await asyncio.to_thread(self._shut_down)


def _run(idle: "queue.SimpleQueue[_Worker]", request: dict[str, Any]) -> ToolResult:
    """Runs a program in the next idle worker; does not hold the pool, which a thread of its own could not end."""
    start = time.monotonic()
    worker = idle.get()
    failure = ""
    try:
        for _ in range(2):
            try:
                return worker.exchange(request)
            except (OSError, EOFError, ValueError, KeyError) as error:
                failure = f"{type(error).__name__}: {error}"
                worker.discard()
    finally:
        idle.put(worker)
    return ToolResult(status=ToolStatus.infrastructure, output=failure, wall_s=time.monotonic() - start)


def _shut_down(threads: ThreadPoolExecutor, workers: "list[_Worker]", owner_pid: int) -> None:
    if os.getpid() != owner_pid:  # a fork of the trainer ends: the workers are not its own
        return
    for worker in workers:
        worker.interrupt()
    threads.shutdown(wait=True)
    for worker in workers:
        worker.discard()


class _Worker:
    """One worker process as the trainer sees it: replaced after every failure, until it is interrupted."""

    def __init__(self, sandbox: LocalSandbox) -> None:
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._is_interrupted = False
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""

    def start(self) -> subprocess.Popen[bytes]:
        """The running process, started when there is none."""
        with self._lock:
            if self._is_interrupted:
                raise OSError("the sandbox pool was closed")
            if self._process is None:
                self._folder = os.path.realpath(tempfile.mkdtemp(prefix="turnwise-sandbox-"))  # as `getcwd` has it
                try:
                    self._process = _launch(self._sandbox, self._folder)
                except OSError:
                    worker_script.remove_folder(self._folder)
                    raise
            return self._process

    def exchange(self, request: dict[str, Any]) -> ToolResult:
        """Sends one program and waits for its result.

        Raises:
            OSError, EOFError, ValueError, KeyError: The worker died, hangs or talks nonsense.
        """
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        worker_script.write_message(process.stdin, request)
        patience = select.poll()
        patience.register(process.stdout.fileno(), select.POLLIN)
        limit_s = self._sandbox.wall_s + GRACE_S
        if not patience.poll(limit_s * 1000):
            raise TimeoutError(f"the sandbox worker gave no answer within {limit_s:g} s")
        reply = worker_script.read_message(process.stdout)
        output = _masked(reply["output"], self._folder)
        return ToolResult(status=ToolStatus(reply["status"]), output=output, wall_s=reply["wall_s"])

    def interrupt(self) -> None:
        """Asks the process to end, whatever it does, and starts no other; an exchange under way fails at once."""
        with self._lock:
            self._is_interrupted = True
            if self._process is not None:
                self._process.terminate()

    def discard(self) -> None:
        """Ends the process with all that it runs and removes its folder; not while an exchange is under way."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.returncode != 0:  # it could not clean up after itself
                _kill_marked(self._folder)
            worker_script.remove_folder(self._folder)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not sent never will be
                    pipe.close()  # pyright: ignore[reportOptionalMemberAccess]


def _masked(output: str, folder: str) -> str:
    """`output` without what differs from worker to worker: the addresses of objects and the worker's `folder`.

    An address that the capture limit cut short is masked like a whole one. A path cut short is not; the status
    is `output_limit` then, and `PythonTool` shows a fixed text in place of such output.
    """
    return re.sub(r" at 0x[0-9a-f]+", " at 0x...", output).replace(folder, SHOWN_FOLDER)


def _launch(sandbox: LocalSandbox, folder: str) -> subprocess.Popen[bytes]:
    limits = dataclasses.asdict(sandbox)
    del limits["num_workers"]
    settings = worker_script.Settings(folder=folder, **limits)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "TMPDIR": folder,  # also the mark by which programs are found whose worker was killed
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",  # each arena of a thread would take 64 MiB of the address space
    }
    return subprocess.Popen(
        # -s -P and a bare environment isolate as -I does, which would ignore PYTHONHASHSEED.
        [sys.executable, "-s", "-P", worker_script.__file__, json.dumps(dataclasses.asdict(settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=folder,
        start_new_session=True,
    )


def _kill_marked(folder: str) -> None:
    """Kills the processes that inherited `folder` in their environment."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if folder.encode() in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
