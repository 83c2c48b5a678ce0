"""A server of SandboxFusion's HTTP API on a real socket that really runs the programs, and fails on demand."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is done in place of running a program; without a `status` the program is run."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = ""
    """Sent as it is when it is text, else as JSON."""
    delay_s: float = 0.0
    """Before anything is sent."""
    hangs_up: bool = False
    """The connection is closed without a word."""


SANDBOX_ERROR = Fault(
    status=200, body={"status": "SandboxError", "message": "no cgroup is left", "run_result": None, "files": {}}
)


class FusionServer(ThreadingHTTPServer):
    """Serves `POST /run_code`; takes the next of `faults` for each request, then `always`, else runs the program."""

    daemon_threads = True

    def __init__(self, always: Fault | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: deque[Fault] = deque()
        self.always = always
        self.requests: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.times: list[float] = []
        self.num_connections = 0
        self.num_running = self.most_running = 0
        self.hung_up = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up: told to the test, not to the terminal."""
        self.hung_up.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FusionServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.num_connections += 1

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append(request)
            server.tokens.append(self.headers["Authorization"])
            server.times.append(time.monotonic())
            server.num_running += 1
            server.most_running = max(server.most_running, server.num_running)
            fault = server.faults.popleft() if server.faults else server.always or Fault()
        try:
            time.sleep(fault.delay_s)
            if self.path != "/run_code":
                fault = Fault(status=404, body={"detail": "Not Found"})
            if fault.hangs_up:
                self.close_connection = True
                return
            if fault.status is None:
                self._send(200, {}, _answer(request))
            else:
                self._send(fault.status, fault.headers, fault.body)
        finally:
            with server.lock:
                server.num_running -= 1

    def _send(self, status: int, headers: Mapping[str, str], body: Any) -> None:
        payload = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """As SandboxFusion's `run_python` without isolation: a file in a folder of its own, run by a shell."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "tmp8f2k1x.py")
        script.write_text(request["code"])
        memory_kib = request["memory_limit_MB"] * 1024
        started = time.monotonic()
        process = subprocess.Popen(
            ["/bin/bash", "-c", f"ulimit -Sv {memory_kib}; ulimit -Ss {memory_kib}; {sys.executable} {script}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=request["run_timeout"])
            outcome = {"status": "Finished", "return_code": process.returncode}
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            stdout, stderr = process.communicate()
            outcome = {"status": "TimeLimitExceeded", "return_code": None}
        outcome |= {
            "execution_time": time.monotonic() - started,
            "stdout": _decoded(stdout[: 1 << 20]),
            "stderr": _decoded(stderr[: 1 << 20]),
        }
        return {
            "status": "Success" if outcome["return_code"] == 0 else "Failed",
            "message": "",
            "compile_result": None,
            "run_result": outcome,
            "executor_pod_name": None,
            "files": {},
        }


def _decoded(stream: bytes) -> str:
    try:
        return stream.decode()
    except UnicodeDecodeError as error:
        return f"[DecodeError] {error}"


@contextmanager
def serving(always: Fault | None = None) -> Iterator[FusionServer]:
    """A server that answers until the end of the block."""
    server = FusionServer(always)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
