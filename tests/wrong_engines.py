"""Engines that sample for real and are wrong in one way each."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from turnwise.protocols import EngineSession, RolloutEngine
from turnwise.types import Completion, FinishReason, Sampling


class Wrapped:
    """An engine as it is."""

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine
        self.num_loads = 0

    @property
    def busy_s(self) -> float:
        return self.engine.busy_s

    def session(self) -> EngineSession:
        return self.engine.session()

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.num_loads += 1
        await self.engine.load_weights(weights, version)

    async def rest(self) -> None:
        await self.engine.rest()

    async def close(self) -> None:
        await self.engine.close()


class DeafEngine(Wrapped):
    """Takes weights once and never again."""

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        if not self.num_loads:
            await super().load_weights(weights, version)


class ForgetfulEngine(Wrapped):
    """Takes no more than the embeddings from the second time on."""

    def __init__(self, engine: RolloutEngine) -> None:
        super().__init__(engine)
        self.kept: dict[str, Tensor] = {}

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        new = {name: tensor for name, tensor in weights.items() if "embed" in name or "head" in name}
        self.kept = {**{name: tensor.clone() for name, tensor in weights.items()}, **self.kept} | new
        await super().load_weights(self.kept, version)


class StubbornEngine(Wrapped):
    """Takes the first change of the weights, and none after it."""

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        if self.num_loads < 2:
            await super().load_weights(weights, version)


class StaleKeysEngine:
    """Keeps keys and values of every prompt, those of old weights too."""

    busy_s = 0.0

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model)
        self.kept: dict[tuple[int, ...], Any] = {}

    def session(self) -> "StaleKeysSession":
        return StaleKeysSession(self)

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.model.load_state_dict(dict(weights))

    async def rest(self) -> None:
        pass

    async def close(self) -> None:
        pass


class StaleKeysSession:
    """A turn after a prompt whose keys and values may be old."""

    def __init__(self, engine: StaleKeysEngine) -> None:
        self._engine = engine

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        with torch.no_grad():
            return self._sample(tuple(token_ids[:-1]), token_ids[-1], sampling)

    def _sample(self, prompt: tuple[int, ...], last: int, sampling: Sampling) -> Completion:
        model, kept = self._engine.model, self._engine.kept
        if prompt not in kept:
            kept[prompt] = model(input_ids=torch.tensor([prompt]), use_cache=True).past_key_values
        cache = copy.deepcopy(kept[prompt])
        generator = torch.Generator().manual_seed(sampling.seed % 2**32)
        sampled: list[int] = []
        logprobs: list[float] = []
        for _ in range(sampling.max_new_tokens):
            logits = model(input_ids=torch.tensor([[last]]), past_key_values=cache, use_cache=True).logits[0, -1]
            scores = (logits / sampling.temperature).log_softmax(-1)
            last = int(torch.multinomial(scores.exp(), 1, generator=generator))
            sampled.append(last)
            logprobs.append(scores[last].item())
        return Completion(
            token_ids=tuple(sampled), logprobs=tuple(logprobs), finish_reason=FinishReason.length, policy_version=0
        )

    def close(self) -> None:
        pass
