"""Update and decode of SmolLM2-135M as shares of the rate at which this machine multiplies large square matrices."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch

from made_batch import made_batch
from peer_ours import chosen_components
from peer_work import GROUP_SIZE, NEW_TOKENS, NUM_PROBLEMS
from prepared import smollm2
from turnwise.config.wiring import compute_dtype, load_model, start_policy
from turnwise.model.prefix_tree import micro_batches, plant
from turnwise.protocols import RolloutEngine
from turnwise.types import Sampling, TokenBatch

PROMPT_TOKENS = 42
SQUARE = 2048
FEW_TOKENS, MANY_TOKENS = 8, 8 + NEW_TOKENS
"""New tokens of two rollouts: what the longer one takes more is decoding, without the prompts."""
ROUNDS = 3
"""Of which the first does not count."""
PRODUCTS_S = 0.5
"""Seconds of products whose rate is taken."""
CPU = torch.device("cpu")


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
    components = chosen_components(path, dtype)
    renderer = components.model.load_renderer()
    precision = compute_dtype(components, CPU)
    trained: Any = load_model(components, CPU, torch.float32)
    config = trained.config
    policy = start_policy(components, renderer, trained)
    sampled = load_model(components, CPU, precision)
    batch = made_batch(
        vocab_size=config.vocab_size,
        num_groups=NUM_PROBLEMS,
        group_size=GROUP_SIZE,
        prompt_tokens=PROMPT_TOKENS,
        turn_tokens=NEW_TOKENS,
    )
    hidden, inner = config.hidden_size, config.intermediate_size
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
            few_s = await rollout_seconds(engine, batch, FEW_TOKENS)
            many_s = await rollout_seconds(engine, batch, MANY_TOKENS)
            lengths = range(PROMPT_TOKENS + FEW_TOKENS, PROMPT_TOKENS + MANY_TOKENS)
            decode_rate = decode_flops(config, num_rows, lengths) / (many_s - few_s)
            rounds["decode_share"].append(decode_rate / square)
        await engine.close()

    asyncio.run(run())
    return {name: median(values[1:]) for name, values in rounds.items()}


def product_rate(dtype: torch.dtype, rows: int, inner: int, columns: int) -> float:
    """FLOP/s of `[rows, inner] x [inner, columns]` as a linear layer computes it: 2 for each multiplication."""
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    count, started = 0, perf_counter()
    while (taken := perf_counter() - started) < PRODUCTS_S:
        torch.nn.functional.linear(left, right)
        count += 1
    return 2 * rows * inner * columns * count / taken


def update_flops(config: Any, batch: TokenBatch, token_budget: int) -> float:
    """FLOPs that an update has to do: what is computed a second time to save memory, and AdamW, are not counted.

    With M tokens that go through the layers, prompts that siblings share counted once in each micro-batch, L of them
    before a loss token, W weights of the layers' linear maps, V x H of the output embedding, and a context of c tokens:
    `6 W M + 6 V H L + 12 layers heads D sum(c)`. Forward is a third, backward two.
    """
    flops = 0.0
    for sequences in micro_batches(batch, token_budget):
        tree = plant(batch.select(sequences))
        context = int((tree.position_ids_M + 1).sum())
        flops += 6 * layer_weights(config) * tree.token_ids_M.numel()
        flops += 6 * config.vocab_size * config.hidden_size * tree.predictors_L.numel()
        flops += 3 * attention_flops(config) * context
    return flops


def decode_flops(config: Any, num_rows: int, lengths: range) -> float:
    """FLOPs of a forward pass for `num_rows` rows at each length: `2 (W + V H) + 4 layers heads D length` for a row."""
    weights = layer_weights(config) + config.vocab_size * config.hidden_size
    return num_rows * sum(2 * weights + attention_flops(config) * length for length in lengths)


def layer_weights(config: Any) -> int:
    """Weights of the linear maps of a Llama's layers: queries and outputs, keys and values, and three of the MLP."""
    heads = config.num_attention_heads * config.head_dim
    key_heads = config.num_key_value_heads * config.head_dim
    return config.num_hidden_layers * config.hidden_size * (2 * heads + 2 * key_heads + 3 * config.intermediate_size)


def attention_flops(config: Any) -> int:
    """Of the forward pass, for a token and each token that it attends to: scores and weighted sum, 2 each."""
    return 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim


async def rollout_seconds(engine: RolloutEngine, batch: TokenBatch, num_tokens: int) -> float:
    """Of sampling `num_tokens` tokens after each prompt of the batch, all side by side."""
    prompts = [row[:PROMPT_TOKENS] for row in batch.token_ids.view(batch.num_sequences, -1).tolist()]
    sessions = [engine.session() for _ in prompts]
    started = perf_counter()
    await asyncio.gather(
        *(
            session.generate(prompt, Sampling(temperature=1.0, max_new_tokens=num_tokens, seed=seed))
            for seed, (session, prompt) in enumerate(zip(sessions, prompts, strict=True))
        )
    )
    taken = perf_counter() - started
    for session in sessions:
        session.close()
    return taken


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    started = perf_counter()
    work()
    return perf_counter() - started
