"""A vLLM server that lives as long as its engine: started on a free port, watched, ended with all its children."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from turnwise.engine.vllm.surroundings import of_this_rank
from turnwise.ranks import Ranks, current

START_S = 600.0
"""Seconds that a server may take to start: loading, compiling, capturing graphs."""
STOP_S = 20.0
"""Seconds that it may take to end before it is killed."""
LAST_WORDS = 600
"""Characters of its log that an error repeats."""

SOURCE_ROOT = Path(__file__).resolve().parents[3]
"""What its PYTHONPATH begins with, so that its workers find `worker.EXTENSION`."""
PR_SET_PDEATHSIG = 1


def free_port(ranks: Ranks) -> int:
    """A port that nobody listens at, and that no other rank of this machine is given by this function."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        if port // 2 % ranks.local_count == ranks.local_index:  # halved: the kernel gives odd ones only
            return port


class ServerProcess:
    """A process group with its folder and log.

    Attributes:
        url: Where it will answer.
        folder: For what it reads; gone when it has ended.
    """

    def __init__(self) -> None:
        """Makes the folder and finds a port; `start` starts it."""
        self.folder = Path(tempfile.mkdtemp(prefix="turnwise_vllm_"))
        self._port = free_port(current())
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, python: str, arguments: Sequence[str]) -> None:
        """Starts `vllm serve` under the interpreter `python` and waits until it answers.

        Raises:
            ValueError: It ended, or did not answer in time.
        """
        path = os.pathsep.join(filter(None, (str(SOURCE_ROOT), os.environ.get("PYTHONPATH"))))
        defaults = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        address = ["--host", "127.0.0.1", "--port", str(self._port)]
        libc = ctypes.CDLL(None)
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-m", "vllm.entrypoints.launchers.api_server.entry", *arguments, "--tokens-only", *address],
                env={**defaults, **of_this_rank(), "VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the trainer, which then ends the server
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # for a trainer that is killed
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ValueError(f"engine=vllm_server: vLLM did not start: {self.last_words()}")
            time.sleep(0.5)

    def last_words(self) -> str:
        """The end of its log, on one line."""
        log = self.folder / "log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return " ".join(text[-LAST_WORDS:].split()) or "it said nothing"

    def close(self) -> None:
        """Ends it and whatever it started; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):  # children that outlived it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False
