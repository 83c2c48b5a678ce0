"""Servers that speak vLLM's endpoints on real sockets, each around a small vLLM of our own, with faults to choose."""

import asyncio
import http.server
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from small_vllm import SmallVLLM
from tiny_models import small_model
from turnwise.engine.vllm.backend import UNLABELLED

ARCHITECTURE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
"""Heads of 32 entries, which vLLM's CPU kernels have: nothing is filled up."""


def served_model(seed: int = 0, **overrides: Any) -> Any:
    settings: dict[str, Any] = {**ARCHITECTURE, **overrides}
    return small_model(seed, **settings)


class StandIn(SmallVLLM):
    """A server on a port of its own.

    Attributes:
        failures: How many further turns are answered with 500.
        dies_after: How many turns it answers before it is gone; None: it lives.
        hangs: Whether turns are taken and never answered.
        is_blind: Whether its workers do not see this host's shared memory.
        asked_paths: What it was asked, by path.
    """

    def __init__(self, **overrides: Any) -> None:
        super().__init__(served_model(9, **overrides))
        self.failures = 0
        self.dies_after: int | None = None
        self.hangs = self.is_blind = self.refuses_turns = self.is_stuck = False
        self.awaited = threading.Event()
        self.released = threading.Event()
        self.asked_paths: list[str] = []
        self.arguments: list[str] = []
        self.seeds: list[int] = []
        self.introduction: dict[str, Any] = {}
        self.version = "0.32.0"
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self.start()

    def start(self, port: int = 0) -> None:
        """Listens; on the same port as before after `kill`, where the weights are vLLM's first ones again."""
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.stand_in = self
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.released = threading.Event()
        self.label = UNLABELLED
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def kill(self) -> None:
        """Is gone as after SIGKILL: nobody listens, and every connection breaks."""
        if self._server is not None:
            server, self._server = self._server, None
            server.shutdown()
            server.break_off()
            server.server_close()
            self.released.set()

    def come_back(self) -> None:
        """Is started anew at its URL, with weights of its own."""
        self.model.load_state_dict(served_model(11).state_dict(), strict=False)
        self.hangs, self.failures = False, 0
        self.start(self.port)

    def introduce(self, marker: str) -> str:
        config = self.model.config
        config.architectures = [type(self.model).__name__]
        self.model_config = SimpleNamespace(
            hf_config=config,
            dtype="torch.float32",
            max_model_len=config.max_position_embeddings,
            logprobs_mode="processed_logprobs",
        )
        self.scheduler_config = SimpleNamespace(enable_chunked_prefill=False)
        self.device_config = SimpleNamespace(device_type="cpu")
        with patch.dict(sys.modules, {"vllm": SimpleNamespace(__version__=self.version)}):
            told = json.loads(super().introduce(marker))
        told["sees_marker"] = told["sees_marker"] and not self.is_blind
        return json.dumps(told | self.introduction)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The status and the body that a real one would give."""
        self.asked_paths.append(path)
        match path:
            case "/inference/v1/generate":
                return self._turn(body)
            case "/collective_rpc":
                return self._call(body["method"], *body["args"])
            case "/reset_prefix_cache":
                return 200, {"success": asyncio.run(self.forget_prefixes())}
            case "/update_weight_version":
                self.label = body["new_version"]
                return 200, {"success": True}
        return 404, {"error": {"message": "Not Found"}}

    def _turn(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.hangs:
            self.awaited.set()
            self.released.wait()
        with self._lock:
            if self.dies_after is not None and len(self.seeds) >= self.dies_after:
                self.kill()
            if self.failures:
                self.failures -= 1
                return 500, {"error": {"message": "EngineCore encountered an issue"}}
            if self.refuses_turns:
                return 400, {"error": {"message": "this turn is refused"}}
            self.seeds.append(body["sampling_params"]["seed"])
            turn = asyncio.run(self.generate(body["token_ids"], body["sampling_params"]))
        content = [{"logprob": logprob if logprob == logprob else -9999.0} for logprob in turn.logprobs]
        choice = {
            "token_ids": turn.token_ids,
            "logprobs": {"content": content},
            "finish_reason": turn.finish_reason,
            "weight_versions": [{"version": turn.weights}],
        }
        return 200, {"choices": [choice]}

    def _call(self, method: str, argument: str) -> tuple[int, Any]:
        self.arguments.append(f"{method} {argument}")
        if self.is_stuck and method != "introduce":
            self.released.wait()
        try:
            return 200, {"results": asyncio.run(self.call_workers(method, argument))}
        except Exception as error:  # as vLLM's core does
            return 500, {"error": {"message": f"Call to collective_rpc method failed: {error}"}}


class _Server(http.server.ThreadingHTTPServer):
    stand_in: StandIn

    def __init__(self, *arguments: Any) -> None:
        self._connections: list[socket.socket] = []
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def break_off(self) -> None:
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = server.stand_in.answer(self.path, body)
        if isinstance(answer, Iterator):  # piece by piece, until the other side has enough
            self.send_response(status)
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in answer:
                self.wfile.write(piece)
            return
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "https://elsewhere.example/")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def stand_ins(count: int, **overrides: Any) -> Iterator[list[StandIn]]:
    """So many servers, dead at the end."""
    servers = [StandIn(**overrides) for _ in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.kill()
