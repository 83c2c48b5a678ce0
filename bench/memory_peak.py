"""The peak memory of a run's parts in a process of their own: engine, a hand-over, two updates. Run by memory.py."""

import asyncio
import json
import sys
from typing import Any

import torch

from turnwise.config.sweep import compose_components
from turnwise.config.wiring import choose_device, load_model, policy_dtype, start_engine, start_policy
from turnwise.preflight.longest import longest_batch
from turnwise.preflight.memory import resident_bytes


async def main(overrides: list[str]) -> None:
    """Prints the figures of one configuration, in bytes."""
    components = compose_components(overrides, label="memory")
    device = choose_device(components)
    import transformers.models.llama.modeling_llama  # noqa: F401

    empty = resident_bytes()
    renderer = components.model.load_renderer()
    model: Any = load_model(components, device, policy_dtype(components, device))
    torch.manual_seed(0)
    policy = start_policy(components, renderer, model)
    engine = start_engine(components, renderer, device)
    loaded = resident_bytes()
    batch = longest_batch(
        token_budget=components.trainer.token_budget,
        max_tokens=components.rollout.max_tokens,
        vocab_size=model.config.vocab_size,
    )
    peaks = []
    for version in range(2):
        await engine.load_weights(policy.weights(), version)
        policy.update(batch, components.loss)
        peaks.append(resident_bytes("VmHWM"))
    await engine.close()
    print(json.dumps({"empty": empty, "loaded": loaded, "first": peaks[0], "peak": peaks[-1]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
