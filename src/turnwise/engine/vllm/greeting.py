"""The first word with a server: what it serves, whether that is what a run needs, and how weights get there."""

import secrets
import time
from enum import StrEnum
from json import JSONDecodeError, loads
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import torch

from turnwise.engine.vllm.backend import Gone
from turnwise.engine.vllm.handover import in_shared_memory
from turnwise.engine.vllm.stream import own_address
from turnwise.engine.vllm.traits import Served, Wanted

if TYPE_CHECKING:
    import httpx

HOWTO = "docs/ARCHITECTURE.md says how to start one"
GREET_S = 30.0
"""Seconds that a server has to say what it serves, once its headers are there, and for each read."""
MAX_BYTES = 1 << 20
"""What it may say at most."""
NO_MARKER = ""
"""In place of a file's name: whether the server sees this host's memory is not asked."""


class WeightPath(StrEnum):
    """How weights get to a server."""

    auto = "auto"
    shared_memory = "shared_memory"
    network = "network"


class Greeting(NamedTuple):
    """What is said to a server, and what it must answer. `host`: where it fetches weights; empty: found out."""

    wanted: Wanted
    path: WeightPath = WeightPath.auto
    host: str = ""
    timeout_s: float = GREET_S


class Met(NamedTuple):
    """What a server serves, and the address from which it fetches weights; None where it shares this host's memory."""

    served: Served
    network: str | None


def greet(url: str, greeting: Greeting) -> Met:
    """Asks the server at `url` what it serves.

    Raises:
        Gone: It does not answer, or not in time.
        ValueError: It is no vLLM server in development mode, or serves something else than is wanted.
    """
    with in_shared_memory({"marker": torch.tensor(secrets.randbits(62))}) as marker:  # another host has no such file
        workers = _introduced(url, greeting.wanted, greeting.timeout_s, str(marker))
    served = workers[0]
    sees_memory = all(worker.sees_marker for worker in workers)
    if greeting.path is WeightPath.shared_memory and not sees_memory:
        raise ValueError("engine.transfer=shared_memory, and it does not see this host's /dev/shm: expected auto")
    if sees_memory and greeting.path is not WeightPath.network:
        return Met(served, None)
    place = urlsplit(url)
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        return Met(served, greeting.host or own_address(place.hostname or "", port))
    except OSError as error:
        raise Gone(str(error)) from error


def greet_for_another(url: str, wanted: Wanted) -> Served:
    """Asks the server at `url` what it serves; how weights get there is the affair of the rank that it belongs to.

    Raises:
        Gone: It does not answer, or not in time.
        ValueError: It is no vLLM server in development mode, or serves something else than is wanted.
    """
    return _introduced(url, wanted, GREET_S, NO_MARKER)[0]


def _introduced(url: str, wanted: Wanted, timeout_s: float, marker: str) -> list[Served]:
    """What each worker says, at least one; the first one serves what is wanted."""
    workers = _introductions(url, marker, timeout_s)
    if differences := list(wanted.differences(workers[0])):
        raise ValueError(f"it serves {', '.join(differences)}")
    return workers


def _introductions(url: str, marker: str, timeout_s: float) -> list[Served]:
    import httpx

    deadline = time.monotonic() + timeout_s
    question = {"method": "introduce", "args": [marker]}
    try:
        with (
            httpx.Client(base_url=url, timeout=timeout_s, trust_env=False) as client,
            client.stream("POST", "/collective_rpc", json=question) as answer,
        ):
            body = _whole(answer, deadline)
    except httpx.HTTPError as error:
        raise Gone(f"no vLLM server answers there ({type(error).__name__}: {error}); {HOWTO}") from error
    if answer.has_redirect_location:
        raise ValueError(f"it redirects to {answer.headers['Location'][:200]}: expected the server's own address")
    if answer.is_client_error or answer.status_code == httpx.codes.NOT_IMPLEMENTED:
        raise ValueError(
            f"what answers there is no vLLM server in development mode (HTTP {answer.status_code}); {HOWTO}"
        )
    text = body.decode(errors="replace")
    if answer.is_server_error:
        if "introduce" in text:  # what vLLM says of a method that its workers lack
            raise ValueError(f"it lacks this turnwise's worker extension, or has one of an older turnwise; {HOWTO}")
        raise Gone(f"it answered with {answer.status_code}: {' '.join(text.split())[:300]}")
    try:
        workers = [Served.read(said) for said in loads(text)["results"]]
    except (JSONDecodeError, LookupError, TypeError, RecursionError):
        workers = []
    if not workers:
        raise ValueError(f"what answers there is no vLLM server: {text[:100]!r}; {HOWTO}")
    return workers


def _whole(answer: "httpx.Response", deadline: float) -> bytes:
    """Reads the body, which httpx alone would wait for as long as something comes.

    Raises:
        Gone: It is not there in time.
        ValueError: It has more than `MAX_BYTES`.
    """
    body = bytearray()
    for chunk in answer.iter_bytes():
        body += chunk
        if len(body) > MAX_BYTES:
            raise ValueError(f"what answers there is no vLLM server: it says more than {MAX_BYTES:,} bytes; {HOWTO}")
        if time.monotonic() > deadline:
            raise Gone(f"its answer does not end; {HOWTO}")
    return bytes(body)
