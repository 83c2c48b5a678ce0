"""vLLM as a server process, started here or found at a URL: `engine=vllm_server`."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from turnwise.engine.vllm.http import HTTPBackend
from turnwise.engine.vllm.local import INSTALL, VLLM, started, too_short
from turnwise.engine.vllm.process import ServerProcess
from turnwise.engine.vllm.rollout import VLLMRolloutEngine

FIND_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


@dataclass(frozen=True, kw_only=True)
class VLLMServer:
    """vLLM behind HTTP on this host: its weights go through shared memory, so both must see the same /dev/shm."""

    url: str = ""
    """Where a server answers, such as http://127.0.0.1:8000; empty: one is started, and ended with the run."""
    python: str = ""
    """Interpreter with vLLM for the server that is started; empty: this one. It needs no turnwise."""
    serve: VLLM = field(default_factory=VLLM)
    """How the server that is started is set up; without meaning for a url."""

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"engine.url={self.url!r}: expected http://HOST:PORT")
        if self.url and self.python:
            raise ValueError(f"engine.python={self.python!r}: no server is started where engine.url={self.url!r}")

    def start(self, model: nn.Module, stop_token_ids: frozenset[int], *, max_tokens: int) -> VLLMRolloutEngine:
        """Starts the server or finds it, and takes `model` over; it is the starting point until weights are loaded.

        Raises:
            ImportError: The interpreter has no vLLM.
            ValueError: No server answers, it cannot serve this model, or its context is shorter than `max_tokens`.
        """
        if self.url:
            backend = HTTPBackend(self.url)
            if backend.max_positions < max_tokens:
                raise too_short(backend.max_positions, max_tokens)
            return started(backend, model, stop_token_ids, max_positions=backend.max_positions, sleeps=False)
        if 0 < self.serve.max_model_len < max_tokens:
            raise too_short(self.serve.max_model_len, max_tokens)
        python = self.python or sys.executable
        try:
            has_vllm = subprocess.run([python, "-c", FIND_VLLM], check=False).returncode == 0
        except OSError as error:
            raise ValueError(f"engine.python={python!r}: expected a Python interpreter, {error}") from error
        if not has_vllm:
            raise ImportError(f"engine=vllm_server: {python} has no vLLM: {INSTALL}")
        process = ServerProcess()
        try:
            process.start(python, flags(self.serve.arguments(model, process.folder)))
            backend = HTTPBackend(process.url, process)
            return started(backend, model, stop_token_ids, max_positions=backend.max_positions, sleeps=self.serve.sleep)
        except BaseException:
            process.close()
            raise


def flags(arguments: Mapping[str, Any]) -> list[str]:
    """vLLM's engine arguments as options of its server."""
    words: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words
