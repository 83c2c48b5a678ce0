"""A vLLM server's endpoints: tokens in and out, and those of its development mode for the weights."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from turnwise.engine.vllm.backend import SLEEP_LEVEL, Gone, Sampled
from turnwise.engine.vllm.greeting import Greeting, Met, greet
from turnwise.engine.vllm.process import ServerProcess

T = TypeVar("T")
CONNECT_S = 10.0
"""Seconds that a connection may take to come about."""
FIRST_WAIT_S = 0.25
"""Seconds before the first repetition of a request; each further one waits twice as long."""
MEET_S = 10.0
"""Seconds that a server which was gone has to say that it is there again: a hand-over waits for it."""


class HTTPBackend:
    """Asks the server at a URL, and ends it where it is ours.

    A request that meets no answer or a failure of the server is repeated, since asking twice does no harm: a turn
    follows from its seed. One that takes longer than `timeout_s` seconds is not: the server counts as stuck.

    Attributes:
        name: Its URL.
        network: The address of this host from which it fetches weights; None: through shared memory.
        met: What it serves.
    """

    def __init__(
        self,
        url: str,
        greeting: Greeting,
        *,
        timeout_s: float,
        max_retries: int,
        process: ServerProcess | None = None,
    ) -> None:
        """Asks what it serves.

        Raises:
            Gone: No server answers.
            ValueError: It does not serve what `greeting` wants.
        """
        import httpx

        self.name = url
        self.met = greet(url, greeting)
        self.network = self.met.network
        self._greeting = greeting._replace(wanted=replace(greeting.wanted, vllm=self.met.served.vllm), timeout_s=MEET_S)
        self._process = process
        self._max_retries = max_retries
        self._timeout_s = timeout_s
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(base_url=url, limits=limits, trust_env=False)

    async def meet(self) -> None:
        """Asks it again what it serves."""
        met: Met = await asyncio.to_thread(greet, self.name, self._greeting)
        self.met, self.network = met, met.network

    async def generate(self, token_ids: Sequence[int], sampling: Mapping[str, Any]) -> Sampled:
        """Samples after `token_ids`."""
        body = {"token_ids": list(token_ids), "sampling_params": sampling}
        return await self._post("/inference/v1/generate", body, _turn)

    async def call_workers(self, method: str, argument: str) -> list[Any]:
        """Calls a method of every worker; who calls it knows how long it may take."""
        body = {"method": method, "args": [argument]}
        return await self._post("/collective_rpc", body, lambda answer: list(answer["results"]), is_watched=True)

    async def forget_prefixes(self) -> bool:
        """Empties the prefix cache."""
        return await self._post("/reset_prefix_cache", {}, lambda answer: answer["success"])

    async def label_weights(self, label: str) -> None:
        """Names the weights."""
        await self._post("/update_weight_version", {"new_version": label}, _anything)

    async def sleep(self) -> None:
        """Throws weights and cache away."""
        await self._post(f"/sleep?level={SLEEP_LEVEL}", {}, _anything)

    async def wake(self, part: str) -> bool:
        """Takes memory for a part of them again."""
        return await self._post(f"/wake_up?tags={part}", {}, lambda answer: answer["status"] == "awake")

    async def close(self) -> None:
        """Ends the connections, and the server if it is ours."""
        await self._client.aclose()
        self.end()

    def end(self) -> None:
        """Ends the server if it is ours."""
        if self._process is not None:
            self._process.close()

    async def _post(
        self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], *, is_watched: bool = False
    ) -> T:
        """Asks, and asks again where that failed; for as long as it takes where somebody else watches it.

        Raises:
            Gone: It failed `max_retries` times more, took too long, or answered what `read` cannot read.
            RuntimeError: The server refused the request.
        """
        import httpx

        connect_s = min(CONNECT_S, self._timeout_s)
        timeout = httpx.Timeout(None if is_watched else self._timeout_s, connect=connect_s)
        whole_s = None if is_watched else connect_s + self._timeout_s  # httpx waits as long as something comes
        failure = ""
        for attempt in range(self._max_retries + 1):
            if attempt:
                await asyncio.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                async with asyncio.timeout(whole_s):
                    response = await self._client.post(path, json=body, timeout=timeout)
            except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout) as error:
                raise Gone(
                    f"it did not answer {path} within {self._timeout_s:g} s (engine.timeout_s){self._last_words()}"
                ) from error
            except httpx.TransportError as error:
                failure = f"it cannot be reached ({type(error).__name__}: {error})"
                continue
            if not response.is_server_error:
                break
            failure = f"it answered {path} with {response.status_code}: {' '.join(response.text.split())[:300]}"
        else:
            raise Gone(f"{failure}{self._last_words()}")
        if response.is_error:
            raise RuntimeError(f"{self.name} answered {path} with {response.status_code}: {response.text[:600]}")
        try:
            return read(response.json())
        except (ValueError, LookupError, TypeError) as error:  # as of a proxy, whose server is not there
            said = " ".join(response.text.split())[:100]
            raise Gone(f"it answered {path} with what is no answer of vLLM: {said!r}{self._last_words()}") from error

    def _last_words(self) -> str:
        return "" if self._process is None else f"; its log ends: {self._process.last_words()}"


def _turn(answer: Any) -> Sampled:
    (turn,) = answer["choices"]
    return Sampled(
        token_ids=tuple(turn["token_ids"]),
        logprobs=tuple(token["logprob"] for token in turn["logprobs"]["content"]),
        finish_reason=turn["finish_reason"],
        weights=turn["weight_versions"][-1]["version"],
    )


def _anything(_: Any) -> None:
    pass
