"""Samples with a transformers model in this process: the engine that needs nothing but PyTorch."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from turnwise.engine.kv_cache import PrefixStore
from turnwise.engine.wave import Decoder, Request, Wave
from turnwise.types import Completion, Sampling


@dataclass(frozen=True, kw_only=True)
class HFEngine:
    """Batched sampling that reuses keys and values across turns; its results repeat bit for bit."""

    max_batch_size: int = 256
    """Turns that are decoded side by side; further ones wait for the next wave."""
    prefill_tokens: int = 16384
    """Padded prompt tokens that go through the model at once; changes memory and speed."""
    cache_mib: int = 2048
    """Memory in MiB for the keys and values of finished turns; beyond it the oldest are prefilled again."""

    def __post_init__(self) -> None:
        for name, smallest in (("max_batch_size", 1), ("prefill_tokens", 1), ("cache_mib", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"engine.{name}={getattr(self, name)}: expected >= {smallest}")

    def start(self, model: nn.Module, stop_token_ids: frozenset[int], pad_token_id: int) -> "HFRolloutEngine":
        """Takes `model` over: the engine's own copy, not the module that is trained.

        Raises:
            ValueError: If a layer of the model does more than full attention (sliding windows, recurrence).
        """
        return HFRolloutEngine(self, model, stop_token_ids, pad_token_id)


class HFRolloutEngine:
    """Serves concurrent calls in waves: those that are waiting when the engine is free, in order of arrival."""

    def __init__(self, settings: HFEngine, model: nn.Module, stop_token_ids: frozenset[int], pad_token_id: int) -> None:
        """Use `HFEngine.start`."""
        config = _text_config(model)
        _check_layers(config)
        self._max_batch_size = settings.max_batch_size
        self._decoder: Decoder | None = Decoder(
            model=model.eval().requires_grad_(False),
            store=PrefixStore(settings.cache_mib * 2**20),
            stop_token_ids=stop_token_ids,
            pad_token_id=pad_token_id,
            max_positions=config.max_position_embeddings,
            prefill_tokens=settings.prefill_tokens,
        )
        self._version = 0
        self._waiting: deque[Request] = deque()
        self._server: asyncio.Task[None] | None = None

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Samples one turn after `token_ids`; aborted and empty where the model has no position left for it."""
        if self._decoder is None:
            raise RuntimeError("generate was called on a closed engine")
        if not token_ids:
            raise ValueError("generate needs at least one prompt token")
        request = Request(tuple(token_ids), sampling, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._server is None or self._server.done():
            self._server = asyncio.create_task(self._serve(self._decoder))
        return await request.future

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copies `weights` into the engine's model and forgets the keys and values of the old ones.

        Raises:
            ValueError: If names or shapes are not exactly the model's; tied weights may be named once.
            RuntimeError: While turns are being sampled: their tokens would come from two versions.
        """
        if self._decoder is None:
            raise RuntimeError("load_weights was called on a closed engine")
        if self._server is not None and not self._server.done():
            raise RuntimeError("load_weights was called while turns are being sampled")
        own = self._decoder.model.state_dict()
        given = {own[name].data_ptr() for name in weights if name in own}
        missing = [name for name, tensor in own.items() if name not in weights and tensor.data_ptr() not in given]
        unknown = [name for name in weights if name not in own]
        if missing or unknown:
            raise ValueError(f"load_weights: {missing=}, {unknown=}; expected the names of the engine's model")
        for name, tensor in weights.items():
            if own[name].shape != tensor.shape:
                raise ValueError(f"load_weights: {name} has shape {[*tensor.shape]}, expected {[*own[name].shape]}")
        with torch.no_grad():
            for name, tensor in weights.items():
                own[name].copy_(tensor)
        self._decoder.store.clear()
        self._version = version

    async def close(self) -> None:
        """Ends what is being sampled and frees the model and the stored keys and values; safe to call twice."""
        if self._server is not None:
            self._server.cancel()
            await asyncio.gather(self._server, return_exceptions=True)
        self._server = self._decoder = None

    async def _serve(self, decoder: Decoder) -> None:
        await asyncio.sleep(0)  # by then every caller of the same moment is waiting
        while self._waiting:
            requests = [self._waiting.popleft() for _ in range(min(self._max_batch_size, len(self._waiting)))]
            try:
                wave = Wave(decoder, requests)
                while wave.advance():
                    await asyncio.sleep(0)  # lets a cancellation through
            except Exception as error:  # belongs to the callers: each of them gets it
                for request in requests:
                    if not request.future.done():
                        request.future.set_exception(error)
            except asyncio.CancelledError:
                for request in (*requests, *self._waiting):
                    request.future.cancel()
                self._waiting.clear()
                raise
            else:
                for request in requests:
                    if not request.future.done():
                        request.future.set_result(self._completion(request))

    def _completion(self, request: Request) -> Completion:
        assert request.finish_reason is not None, "the wave ended before the request"
        return Completion(
            token_ids=tuple(request.token_ids),
            logprobs=tuple(request.logprobs),
            finish_reason=request.finish_reason,
            policy_version=self._version,
        )


def _text_config(model: nn.Module) -> Any:
    """The decoder's part of the model's configuration."""
    return cast(Any, model.config).get_text_config()


def _check_layers(config: Any) -> None:
    from transformers.cache_utils import DynamicCache, DynamicLayer

    kinds = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer}
    if kinds:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"engine=hf needs full attention in every layer, {config.model_type} has {names}")
