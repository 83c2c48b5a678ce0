"""A worker of the local sandbox as the trainer sees it: a process that is replaced after every failure."""

import contextlib
import dataclasses
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from turnwise.env.sandbox import worker as worker_script
from turnwise.env.sandbox.messages import read_message, write_message
from turnwise.types import ToolResult, ToolStatus

SOURCE = Path(__file__).resolve().parents[3]
"""Where the worker finds this package, until it has imported what it needs."""

START_S = 60.0
"""How long a worker may take to start, with all that it imports beforehand on a busy machine."""

CLEANUP_S = 60.0
"""How long a worker may take over a program's time limit to answer: it removes the program's files first.

They may be many, and a program must not be able to have its failure taken for the sandbox's.
"""

GRACE_S = 5.0
"""How long a worker may take to end when asked to."""

SHOWN_FOLDER = "/tmp/sandbox"
"""What the random folder of a worker is called in output; a program runs in `home` below it."""

SHOWN_PREFIX = "/usr"
"""What the folder of the interpreter is called in output."""


class WorkerProcess:
    """One worker process; started when it is needed, and replaced after every failure until it is interrupted."""

    def __init__(self, settings: worker_script.Settings) -> None:
        """Takes the settings of the worker, whose folder is filled in anew for each process."""
        self._settings = settings
        self._lock = threading.Lock()
        self._is_interrupted = False
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        self._is_ready = False

    def start(self) -> subprocess.Popen[bytes]:
        """The running process, started when there is none."""
        with self._lock:
            if self._is_interrupted:
                raise OSError("the sandbox pool was closed")
            if self._process is None:
                self._folder = os.path.realpath(tempfile.mkdtemp(prefix="turnwise-sandbox-"))  # as `getcwd` has it
                try:
                    self._process = _launch(dataclasses.replace(self._settings, folder=self._folder))
                except OSError:
                    worker_script.remove_folder(self._folder)
                    raise
            return self._process

    def exchange(self, request: dict[str, Any]) -> ToolResult:
        """Sends one program and waits for its result.

        Raises:
            OSError, EOFError, ValueError, KeyError: The worker died, hangs, talks nonsense or could not start.
        """
        process = self.start()
        if not self._is_ready:
            if failure := self._answer(process, START_S)["failure"]:
                raise OSError(failure)
            self._is_ready = True
        assert process.stdin is not None
        write_message(process.stdin, request)
        reply = self._answer(process, self._settings.wall_s + CLEANUP_S)
        output = _masked(reply["output"], self._folder)
        return ToolResult(status=ToolStatus(reply["status"]), output=output, wall_s=reply["wall_s"])

    def _answer(self, process: subprocess.Popen[bytes], limit_s: float) -> dict[str, Any]:
        assert process.stdout is not None
        patience = select.poll()
        patience.register(process.stdout.fileno(), select.POLLIN)
        if not patience.poll(limit_s * 1000):
            raise TimeoutError(f"the sandbox worker gave no answer within {limit_s:g} s")
        return read_message(process.stdout)

    def interrupt(self) -> None:
        """Asks the process to end, whatever it does, and starts no other; an exchange under way fails at once."""
        with self._lock:
            self._is_interrupted = True
            if self._process is not None:
                self._process.terminate()

    def discard(self) -> None:
        """Ends the process with all that it runs and removes its folder; not while an exchange is under way."""
        with self._lock:
            process, self._process, self._is_ready = self._process, None, False
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
    """`output` without what differs from worker to worker: addresses of objects, `folder`, where the interpreter lies.

    An address that the capture limit cut short is masked like a whole one. A path cut short is not; the status
    is `output_limit` then, and `PythonTool` shows a fixed text in place of such output.
    """
    output = re.sub(r" at 0x[0-9a-f]+", " at 0x...", output).replace(folder, SHOWN_FOLDER)
    for prefix in sorted({sys.prefix, sys.base_prefix} - {SHOWN_PREFIX}, key=len, reverse=True):
        output = output.replace(prefix, SHOWN_PREFIX)
    return output


def _launch(settings: worker_script.Settings) -> subprocess.Popen[bytes]:
    environment = {
        "PYTHONPATH": str(SOURCE),
        "PATH": os.environ.get("PATH", os.defpath),
        "TMPDIR": settings.folder,  # also the mark by which programs are found whose worker was killed
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
        cwd=settings.folder,
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
