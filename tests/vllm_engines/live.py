"""A real vLLM with the policy beside it: what the tests of a module share, because each start takes half a minute."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from tiny_models import token_batch
from turnwise.engine.vllm.local import VLLM
from turnwise.engine.vllm.rollout import VLLMRolloutEngine
from turnwise.engine.vllm.server import VLLMServer
from turnwise.model.causal_lm import CausalLM
from turnwise.model.chat import ChatRenderer
from turnwise.model.policy import TorchPolicy
from turnwise.types import Completion, Message, Sampling

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
SMOLLM2 = ROOT / "models" / "smollm2_135m"
CPU = torch.device("cpu")
SETTINGS = VLLM(enforce_eager=True, kv_cache_mib=256, max_model_len=512, max_batch_size=32)
OPTIONS = {"vllm": SETTINGS, "vllm_server": VLLMServer(serve=SETTINGS)}


@dataclass(frozen=True, kw_only=True)
class Live:
    """The engine, the policy that it samples from, and the loop that both live in."""

    runner: asyncio.Runner
    engine: VLLMRolloutEngine
    policy: TorchPolicy
    renderer: ChatRenderer

    @classmethod
    def started(cls, option: str, path: str) -> "Live":
        """Starts the engine `option` with the model at `path`, in float32."""
        return cls.around(OPTIONS[option], path)

    @classmethod
    def around(cls, settings: VLLM | VLLMServer, path: str) -> "Live":
        """Starts the engine of `settings` with the model at `path`, in float32."""
        model = CausalLM(path=path)
        renderer = model.load_renderer()
        policy = TorchPolicy(
            model.load_model(CPU, torch.float32),
            renderer,
            learning_rate=1e-4,
            weight_decay=0.0,
            betas=(0.9, 0.95),
            max_grad_norm=1.0,
            token_budget=2048,
            logit_chunk=512,
        )
        engine = settings.start(model.load_model(CPU, torch.float32), renderer.stop_token_ids, max_tokens=64)
        return cls(runner=asyncio.Runner(), engine=engine, policy=policy, renderer=renderer)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` to its end in the loop of the engine."""
        return self.runner.run(work)

    def prompts(self, count: int) -> list[tuple[int, ...]]:
        """Prompts of different lengths that share their beginning."""
        text = "Write Python that adds the numbers " + ", ".join(str(number) for number in range(30))
        return [
            self.renderer.prompt_ids((Message(role="user", content=f"{text} and {number * 'then '}{number}."),))
            for number in range(count)
        ]

    def sample(self, prompts: Sequence[Sequence[int]], **sampling: Any) -> list[Completion]:
        """A turn after each prompt, all asked for at once."""
        defaults = {"temperature": 1.0, "max_new_tokens": 16}

        async def turns() -> list[Completion]:
            calls = (
                self.engine.session().generate(prompt, Sampling(**{**defaults, "seed": seed, **sampling}))
                for seed, prompt in enumerate(prompts)
            )
            return await asyncio.gather(*calls)

        return self.run(turns())

    def gap(self, prompts: Sequence[Sequence[int]], turns: Sequence[Completion], **sampling: Any) -> float:
        """The largest difference between a log-prob that the engine recorded and the trainer's."""
        pairs = [
            ((*p, *t.token_ids), (0,) * len(p) + (1,) * len(t.token_ids)) for p, t in zip(prompts, turns, strict=True)
        ]
        batch = replace(token_batch(pairs), **{"temperature": 1.0, **sampling})
        recorded = torch.tensor([logprob for turn in turns for logprob in turn.logprobs])
        return (self.policy.logprobs(batch)[batch.loss_mask] - recorded).abs().max().item()

    def move(self, seed: int) -> dict[str, Tensor]:
        """Changes the policy's weights by a hundredth of their spread; what the engine is to be given."""
        generator = torch.Generator().manual_seed(seed)
        weights = dict(self.policy.weights())
        moved = {tensor.data_ptr(): tensor for tensor in weights.values()}
        for tensor in moved.values():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.add_(noise, alpha=0.01 * float(tensor.std() or 1.0))
        return weights

    def load(self, weights: dict[str, Tensor], version: int) -> None:
        """Hands the weights over."""
        self.run(self.engine.load_weights(weights, version))

    def close(self) -> None:
        """Ends the engine and its loop."""
        self.run(self.engine.close())
        self.runner.close()
