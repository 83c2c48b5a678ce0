"""A whole step of GRPO on a random Qwen2.5 on a GPU: rollout and update, with the trainer of a run."""

import asyncio
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from arms import timed
from peer_ours import Prompts, one_turn_trainer
from random_qwen import random_model
from turnwise.config.sweep import compose_components
from turnwise.config.wiring import compute_dtype, start_policy
from turnwise.types import Message

STEPS = 3
"""Of which the first does not count."""


class RandomTokens:
    """A renderer for models whose tokens mean nothing: every prompt is as long as every other."""

    def __init__(self, vocab_size: int, prompt_tokens: int) -> None:
        self._vocab_size = vocab_size
        self._prompt_tokens = prompt_tokens

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Random tokens, a function of what the last message says."""
        rng = random.Random(zlib.crc32(messages[-1].content.encode()))
        return tuple(rng.randrange(self._vocab_size) for _ in range(self._prompt_tokens))

    def continuation_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Never called: there is one turn."""
        raise AssertionError(f"a second turn was wanted after {messages}")

    def text(self, token_ids: Sequence[int]) -> str:
        """The numbers themselves."""
        return " ".join(map(str, token_ids))


def measure_step(
    config: Any,
    device: torch.device,
    *,
    num_problems: int = 32,
    group_size: int = 8,
    prompt_tokens: int = 256,
    new_tokens: int = 512,
    token_budget: int = 4096,
) -> dict[str, float]:
    """Figures of one size of model with passes in bfloat16: median seconds of a step and of its parts, peak memory.

    `rollout_rate` are sampled tokens per second of the rollout. Where memory runs out there are no figures, and a line
    says so.
    """
    num_tokens, max_tokens = num_problems * group_size * new_tokens, prompt_tokens + new_tokens
    settings = [
        "algo=grpo",
        "trainer.dtype=bfloat16",
        f"trainer.token_budget={token_budget}",
        f"rollout.num_problems={num_problems}",
        f"rollout.group_size={group_size}",
        "rollout.max_turns=1",
        f"rollout.max_tokens={max_tokens}",
        f"engine.max_batch_size={num_problems * group_size}",
        "engine.cache_mib=8192",
        f"engine.cuda_graphs={str(device.type == 'cuda').lower()}",
    ]
    components = compose_components(settings, label="gpu")
    policy = start_policy(components, components.model.load_renderer(), random_model(config, device, torch.float32))
    sampled = random_model(config, device, compute_dtype(components, device))
    engine = components.engine.start(sampled, frozenset(), max_tokens=max_tokens)
    steps = []
    with TemporaryDirectory() as folder, asyncio.Runner() as runner:
        trainer, tracker = one_turn_trainer(
            components,
            policy=policy,
            engine=engine,
            renderer=RandomTokens(config.vocab_size, prompt_tokens),
            task=Prompts(num_problems * (STEPS + 1)),
            max_tokens=max_tokens,
            folder=Path(folder),
        )
        try:
            for step in range(1, STEPS + 1):  # an evaluation is due before step 0
                taken = timed(lambda step=step: runner.run(trainer.step(step)), device)
                if (trained := tracker.figures["loss/num_tokens"]) != num_tokens:
                    raise AssertionError(f"a step of {trained} tokens: expected {num_tokens}")
                steps.append((taken, tracker.figures))
        except torch.OutOfMemoryError:
            print("  without the step: out of memory", flush=True)
            return {}
        finally:
            runner.run(engine.close())
    counted = steps[1:]
    rollout_s = median(figures["time/rollout_s"] for _, figures in counted)
    return {
        "step_s": median(taken.seconds for taken, _ in counted),
        "rollout_s": rollout_s,
        "update_s": median(figures["time/update_s"] for _, figures in counted),
        "rollout_rate": num_tokens / rollout_s,
        "step_peak_mib": max(taken.peak_mib for taken, _ in counted),
    }
