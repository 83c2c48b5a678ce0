"""A vLLM server's endpoints: tokens in and out, and those of its development mode for the weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from turnwise.engine.vllm.backend import SLEEP_LEVEL, Sampled
from turnwise.engine.vllm.process import ServerProcess


class HTTPBackend:
    """Asks the server at a URL, and ends it where it is ours.

    Attributes:
        max_positions: Tokens that fit into its context.
    """

    def __init__(self, url: str, process: ServerProcess | None = None) -> None:
        """Asks what it serves.

        Raises:
            ValueError: No server answers, or it lacks an endpoint.
        """
        import httpx

        self._process = process
        try:
            with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
                (served,) = client.get("/v1/models").raise_for_status().json()["data"]
                client.get("/weight_info").raise_for_status()
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise ValueError(
                f"engine.url={url}: no vLLM server in development mode answers there ({error}); docs/ARCHITECTURE.md "
                f"says how to start one"
            ) from error
        self.max_positions: int = served["max_model_len"]
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(base_url=url, timeout=None, limits=limits, trust_env=False)

    async def generate(self, token_ids: Sequence[int], sampling: Mapping[str, Any]) -> Sampled:
        """Samples after `token_ids`."""
        answer = await self._post("/inference/v1/generate", {"token_ids": list(token_ids), "sampling_params": sampling})
        (turn,) = answer["choices"]
        return Sampled(
            token_ids=tuple(turn["token_ids"]),
            logprobs=tuple(token["logprob"] for token in turn["logprobs"]["content"]),
            finish_reason=turn["finish_reason"],
            weights=turn["weight_versions"][-1]["version"],
        )

    async def call_workers(self, method: str, argument: str) -> list[Any]:
        """Calls a method of every worker."""
        return (await self._post("/collective_rpc", {"method": method, "args": [argument]}))["results"]

    async def forget_prefixes(self) -> bool:
        """Empties the prefix cache."""
        return (await self._post("/reset_prefix_cache", {}))["success"]

    async def label_weights(self, label: str) -> None:
        """Names the weights."""
        await self._post("/update_weight_version", {"new_version": label})

    async def sleep(self) -> None:
        """Throws weights and cache away."""
        await self._post(f"/sleep?level={SLEEP_LEVEL}", {})

    async def wake(self, part: str) -> bool:
        """Takes memory for a part of them again."""
        return (await self._post(f"/wake_up?tags={part}", {}))["status"] == "awake"

    async def close(self) -> None:
        """Ends the connections, and the server if it is ours."""
        await self._client.aclose()
        if self._process is not None:
            self._process.close()

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        import httpx

        try:
            response = await self._client.post(path, json=body)
        except httpx.HTTPError as error:
            said = "" if self._process is None else f"; its log ends: {self._process.last_words()}"
            raise RuntimeError(f"the vLLM server is gone ({type(error).__name__}: {error}){said}") from error
        if response.is_error:
            raise RuntimeError(f"the vLLM server answered {path} with {response.status_code}: {response.text[:600]}")
        return response.json()
