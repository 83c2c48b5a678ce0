"""A vLLM of our own: a model of transformers that loads what the real worker's class reads."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tiny_models import small_model
from turnwise.engine.vllm.backend import UNLABELLED, Gone, Sampled
from turnwise.engine.vllm.worker import WeightReceiver


class SmallVLLM(WeightReceiver):
    """Answers the greedy turn; each fault of a real one can be switched on. Notes what it is told in `events`."""

    name = "vLLM"
    network = None

    def __init__(self, model: Any = None) -> None:
        self.events: list[str] = []
        self.asleep: set[str] = set()
        self.stays_asleep = False
        self.model = small_model(seed=9) if model is None else model
        self.label = UNLABELLED
        self.asked: list[Mapping[str, Any]] = []
        self.is_deaf = self.is_stale = self.keeps_prefixes = self.ignores_temperature = self.is_broken = False
        self.gate: asyncio.Event | None = None
        self.num_closed = 0

    def get_model(self) -> Any:
        return self.model

    def reload_weights(self, weights_iterator: Any) -> None:
        assert "weights" not in self.asleep, "there is no memory to load into"
        if not self.is_deaf:
            weights = {name: tensor.clone() for name, tensor in weights_iterator}
            if not self.is_stale:
                self.model.load_state_dict(weights, strict=False)

    async def meet(self) -> None:
        raise Gone("it does not come back")

    async def generate(self, token_ids: Sequence[int], sampling: Mapping[str, Any]) -> Sampled:
        assert not self.asleep, "a real one would keep the request waiting"
        self.asked.append(sampling)
        self.events.append("generate")
        if self.gate is not None:
            await self.gate.wait()
        temperature = 1.0 if self.ignores_temperature else sampling["temperature"] or 1.0
        turn: list[int] = []
        logprobs: list[float] = []
        stops = sampling.get("stop_token_ids", ())
        while len(turn) < sampling["max_tokens"] and not (turn and turn[-1] in stops):
            logits = self.model(input_ids=torch.tensor([[*token_ids, *turn]])).logits[0, -1].detach()
            turn.append(int(logits.argmax()))
            logprobs.append((logits / temperature).log_softmax(-1)[turn[-1]].item())
        if self.is_broken:
            logprobs = [float("nan")] * len(turn)
        reason = "stop" if turn[-1] in stops else "length"
        return Sampled(tuple(turn), tuple(logprobs), reason, self.label)

    async def call_workers(self, method: str, argument: str) -> list[Any]:
        self.events.append(method)
        return [getattr(self, method)(argument)]

    async def forget_prefixes(self) -> bool:
        self.events.append("forget_prefixes")
        return not self.keeps_prefixes

    async def label_weights(self, label: str) -> None:
        self.label = label

    async def sleep(self) -> None:
        self.events.append("sleep")
        self.asleep = {"weights", "kv_cache"}
        for tensor in self.model.state_dict().values():
            tensor.fill_(float("nan"))

    async def wake(self, part: str) -> bool:
        self.events.append(f"wake {part}")
        self.asleep -= set() if self.stays_asleep else {part}
        return not self.asleep

    async def close(self) -> None:
        self.num_closed += 1
