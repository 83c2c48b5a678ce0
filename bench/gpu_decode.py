"""Decoding of a random Qwen2.5 on a GPU by the engine hf, against the time in which its memory can be read."""

import asyncio
from typing import Any

import torch

from arms import in_turns
from flops import decode_bytes
from made_batch import made_batch
from random_qwen import random_model
from rollouts import rollout_seconds
from turnwise.config.sweep import compose_components

ROUNDS = 3
"""Of which the first does not count; it records the graphs."""
FEW_TOKENS = 16
"""New tokens of the shorter of two rollouts: what the longer one takes more is decoding, without the prompts."""


def measure_decode(
    config: Any,
    device: torch.device,
    bytes_per_s: float,
    *,
    batches: tuple[int, ...] = (1, 8, 64, 256),
    prompt_tokens: int = 512,
    num_tokens: int = 128,
) -> dict[str, float]:
    """Figures of one size of model in bfloat16, by batch; medians over rounds in which all take turns.

    `N_graphs_rate` and `N_launched_rate`: sampled tokens per second of N rows, with and without `engine.cuda_graphs`.
    `..._over_bound`: their time over that in which the weights, once a pass, and the keys and values of all tokens so
    far can be read. The target on an H100 is at most 2 at batch 64. `..._peak_mib`: peak memory, slots for the largest
    batch included. Without CUDA there are no graphs.

    Args:
        config: Of the model.
        device: Where it samples.
        bytes_per_s: Bandwidth of the device's memory.
        batches: Numbers of rows.
        prompt_tokens: Of each row; no two rows begin alike.
        num_tokens: Passes that are timed.
    """
    few, many = FEW_TOKENS, FEW_TOKENS + num_tokens
    max_tokens = prompt_tokens + many
    token_bytes = 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    cache_mib = -(-max(batches) * max_tokens * token_bytes // 2**20)
    prompts = made_batch(
        vocab_size=config.vocab_size,
        num_groups=max(batches),
        group_size=1,
        prompt_tokens=prompt_tokens,
        turn_tokens=1,
    )
    rows = prompts.token_ids.view(max(batches), -1)[:, :-1].tolist()
    ways = {"launched": False, "graphs": True} if device.type == "cuda" else {"launched": False}
    engines = {}
    for way, cuda_graphs in ways.items():
        settings = [f"engine.cuda_graphs={str(cuda_graphs).lower()}", f"engine.cache_mib={cache_mib}"]
        components = compose_components([*settings, f"engine.max_batch_size={max(batches)}"], label="gpu")
        model = random_model(config, device, torch.bfloat16)
        engines[way] = components.engine.start(model, frozenset(), max_tokens=max_tokens)
    figures: dict[str, float] = {}
    with asyncio.Runner() as runner:  # one loop: an engine forgets its graphs when a loop ends under it
        arms = {
            f"{batch}_{way} {length}": lambda engine=engine, batch=batch, length=length: runner.run(
                rollout_seconds(engine, rows[:batch], length)
            )
            for batch in batches
            for way, engine in engines.items()
            for length in (many, few)  # the longer first: slots are laid out for it
        }
        taken = in_turns(arms, device, ROUNDS)
        for engine in engines.values():
            runner.run(engine.close())
    for batch in batches:
        bound_s = decode_bytes(config, batch, range(prompt_tokens + few, prompt_tokens + many)) / bytes_per_s
        for name in (f"{batch}_{way}" for way in ways):
            if f"{name} {many}" not in taken or f"{name} {few}" not in taken:
                continue
            seconds = taken[f"{name} {many}"].seconds - taken[f"{name} {few}"].seconds
            figures[f"{name}_rate"] = batch * num_tokens / seconds
            figures[f"{name}_over_bound"] = seconds / bound_s
            figures[f"{name}_peak_mib"] = taken[f"{name} {many}"].peak_mib
    return figures
