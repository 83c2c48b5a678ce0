"""vLLM as a server process, started here, or servers found at URLs: `engine=vllm_server`."""

import math
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from torch import nn

from turnwise.engine.vllm.backend import Gone
from turnwise.engine.vllm.greeting import Greeting, WeightPath, greet_for_another
from turnwise.engine.vllm.heads import padded_config
from turnwise.engine.vllm.http import HTTPBackend
from turnwise.engine.vllm.local import INSTALL, VLLM, engine_head_size, started, too_short
from turnwise.engine.vllm.process import ServerProcess
from turnwise.engine.vllm.rollout import VLLMRolloutEngine
from turnwise.engine.vllm.traits import Wanted, model_traits
from turnwise.ranks import current

FIND_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


@dataclass(frozen=True, kw_only=True)
class VLLMServer:
    """vLLM behind HTTP: one server that is started here, or any number that run already, on this host or others."""

    urls: list[str] = field(default_factory=list)
    """Where servers answer, such as [http://a:8000,http://b:8000]; empty: one is started, and ended with the run."""
    python: str = ""
    """Interpreter with vLLM for the server that is started; empty: this one. It needs no turnwise."""
    serve: VLLM = field(default_factory=VLLM)
    """How the server that is started is set up; without meaning for urls."""
    transfer: WeightPath = WeightPath.auto
    """How weights get to a server: shared_memory, network; auto: by memory where it sees this host's /dev/shm."""
    transfer_host: str = ""
    """Address of this host from which servers fetch weights over the network; empty: that by which it reaches them."""
    max_retries: int = 3
    """How often a request is repeated that a server does not answer or fails at, before the server is left out."""
    timeout_s: float = 600.0
    """Seconds for a turn, and without progress for a transfer of weights, after which a server counts as stuck."""

    def __post_init__(self) -> None:
        for number, url in enumerate(self.urls):
            _check_url(url, number)
        places = [_place(url) for url in self.urls]
        if doubled := sorted({place for place in places if places.count(place) > 1}):
            raise ValueError(f"engine.urls: {doubled[0]} stands there twice; expected each server once")
        if self.urls and self.python:
            raise ValueError(f"engine.python={self.python!r}: no server is started where engine.urls={self.urls}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries={self.max_retries}: expected >= 0")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s={self.timeout_s}: expected seconds > 0")

    def start(self, model: nn.Module, stop_token_ids: frozenset[int], *, max_tokens: int) -> VLLMRolloutEngine:
        """Starts the server or finds those of this rank, and takes `model` over, the starting point of the weights.

        Raises:
            ImportError: The interpreter has no vLLM.
            ValueError: A server does not answer, serves something else, or there are fewer servers than ranks.
        """
        ranks = current()
        if 0 < len(self.urls) < ranks.count:
            raise ValueError(
                f"engine.urls={self.urls}: {len(self.urls)} for {ranks.count} processes of torchrun, expected at least "
                f"one for each"
            )
        if self.transfer_host:
            _check_own(self.transfer_host)
        config = cast(Any, model).config
        wanted = Wanted(
            model=model_traits(padded_config(config, engine_head_size(model)), [type(model).__name__]),
            dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
            max_tokens=max_tokens,
        )
        if self.urls:
            places = [_place(url) for url in self.urls]
            backends = [self._found(place, wanted) for place in places[ranks.index :: ranks.count]]
            own = {backend.name for backend in backends}
            others = [_version_at(place, wanted) for place in places if place not in own]
            if len(versions := {*(backend.met.served.vllm for backend in backends), *others}) > 1:
                raise ValueError(f"engine.urls: they run vLLM {' and '.join(sorted(versions))}, expected one version")
        else:
            backends = [self._started(model, wanted)]
        try:
            return started(
                backends,
                model,
                stop_token_ids,
                max_positions=min(backend.met.served.max_positions for backend in backends),
                sleeps=not self.urls and self.serve.sleep,
                timeout_s=self.timeout_s,
            )
        except BaseException:
            for backend in backends:
                backend.end()
            raise

    def _found(self, url: str, wanted: Wanted) -> HTTPBackend:
        try:
            return self._backend(url, wanted)
        except (Gone, ValueError) as error:
            raise ValueError(f"engine.urls: {url}: {error}") from error

    def _started(self, model: nn.Module, wanted: Wanted) -> HTTPBackend:
        if 0 < self.serve.max_model_len < wanted.max_tokens:
            raise too_short(self.serve.max_model_len, wanted.max_tokens)
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
            return self._backend(process.url, wanted, process)
        except Gone as error:
            process.close()
            raise ValueError(f"engine=vllm_server: {error}") from error
        except BaseException:
            process.close()
            raise

    def _backend(self, url: str, wanted: Wanted, process: ServerProcess | None = None) -> HTTPBackend:
        greeting = Greeting(wanted, self.transfer, self.transfer_host)
        return HTTPBackend(url, greeting, timeout_s=self.timeout_s, max_retries=self.max_retries, process=process)


def _version_at(url: str, wanted: Wanted) -> str:
    """The version of vLLM at a URL that another rank samples from."""
    try:
        return greet_for_another(url, wanted).vllm
    except (Gone, ValueError) as error:
        raise ValueError(f"engine.urls: {url}: {error}") from error


def _check_url(url: str, number: int) -> None:
    """Raises ValueError for what is no address of a server; one with a password in it is not repeated."""
    if "@" in url:
        raise ValueError(f"engine.urls[{number}]: expected no user or password in it")
    try:
        parts, port = urlsplit(url), urlsplit(url).port
    except ValueError as error:  # a port that is no number
        raise ValueError(f"engine.urls: {url!r}: expected http://HOST:PORT ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise ValueError(f"engine.urls: {url!r}: expected http://HOST:PORT")


def _check_own(address: str) -> None:
    """Raises ValueError where nothing can listen on the address."""
    try:
        family = socket.getaddrinfo(address, None)[0][0]
        socket.create_server((address, 0), family=family).close()
    except OSError as error:
        raise ValueError(f"engine.transfer_host={address!r}: this host has no such address ({error})") from error


def _place(url: str) -> str:
    """The same text for the same server."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


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
