"""Update and decode of SmolLM2-135M as shares of the rate at which this machine multiplies large square matrices."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch

from flops import decode_flops, update_flops
from made_batch import made_batch
from peer_ours import chosen_components
from peer_work import GROUP_SIZE, NEW_TOKENS, NUM_PROBLEMS
from prepared import smollm2
from rates import product_rate
from rollouts import rollout_seconds
from turnwise.config.wiring import choose_device, compute_dtype, load_model, start_policy

PROMPT_TOKENS = 42
TOKEN_BUDGET = 1024
"""Tokens of a micro-batch, as experiment=smollm2_arithmetic has it."""
SQUARE = 2048
FEW_TOKENS, MANY_TOKENS = 8, 8 + NEW_TOKENS
"""New tokens of two rollouts: what the longer one takes more is decoding, without the prompts."""
ROUNDS = 3
"""Of which the first does not count."""


def measure() -> dict[str, float]:
    """Rates of matrix products, and shares of that of large squares, per dtype; medians over rounds.

    A round takes the rate of squares, the update and the decoding one after the other. The rates at the model's own
    shapes, hidden to intermediate size with as many rows as the update and the decode have, say how much of the
    distance to 100% lies in the products themselves.

    Raises:
        NotPrepared: The model is missing.
    """
    return {
        f"{dtype}_{name}": value
        for dtype in ("float32", "bfloat16")
        for name, value in measure_dtype(dtype, str(smollm2())).items()
    }


def measure_dtype(dtype: str, path: str) -> dict[str, float]:
    """The figures of one precision."""
    components = chosen_components(path, dtype, token_budget=TOKEN_BUDGET)
    renderer = components.model.load_renderer()
    device = choose_device(components)
    precision = compute_dtype(components, device)
    trained: Any = load_model(components, device, torch.float32)
    config = trained.config
    policy = start_policy(components, renderer, trained)
    sampled = load_model(components, device, precision)
    batch = made_batch(
        vocab_size=config.vocab_size,
        num_groups=NUM_PROBLEMS,
        group_size=GROUP_SIZE,
        prompt_tokens=PROMPT_TOKENS,
        turn_tokens=NEW_TOKENS,
    )
    hidden, inner = config.hidden_size, config.intermediate_size
    prompts = [row[:PROMPT_TOKENS] for row in batch.token_ids.view(batch.num_sequences, -1).tolist()]
    num_rows = NUM_PROBLEMS * GROUP_SIZE
    rounds: dict[str, list[float]] = defaultdict(list)

    async def run() -> None:
        engine = components.engine.start(sampled, frozenset(), max_tokens=PROMPT_TOKENS + MANY_TOKENS)
        for _ in range(ROUNDS):
            square = product_rate(precision, SQUARE, SQUARE, SQUARE)
            rounds["square_gflops"].append(square / 1e9)
            rounds["update_shape_gflops"].append(product_rate(precision, SQUARE, hidden, inner) / 1e9)
            rounds["decode_shape_gflops"].append(product_rate(precision, num_rows, hidden, inner) / 1e9)
            update_s = seconds(lambda: policy.update(batch, components.loss))
            update_rate = update_flops(config, batch, components.trainer.token_budget) / update_s
            rounds["update_share"].append(update_rate / square)
            few_s = await rollout_seconds(engine, prompts, FEW_TOKENS)
            many_s = await rollout_seconds(engine, prompts, MANY_TOKENS)
            lengths = range(PROMPT_TOKENS + FEW_TOKENS, PROMPT_TOKENS + MANY_TOKENS)
            decode_rate = decode_flops(config, num_rows, lengths) / (many_s - few_s)
            rounds["decode_share"].append(decode_rate / square)
        await engine.close()

    asyncio.run(run())
    return {name: median(values[1:]) for name, values in rounds.items()}


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    started = perf_counter()
    work()
    return perf_counter() - started
