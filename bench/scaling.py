"""Time of an update against group size, prompt length, turns and vocabulary: a Llama of 9 million weights."""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch

from made_batch import made_batch
from turnwise.config.sweep import compose_components
from turnwise.config.wiring import start_policy

VOCAB_SIZE = 8192
LARGE_VOCAB_SIZE = 65536
ROUNDS = 5
"""Of which the first does not count."""


def measure() -> dict[str, float]:
    """Ratios of median times of updates that take turns.

    `sample_in_group_of_4_over_16`: a trajectory of a group of 4 over one of a group of 16, prompts of 256 tokens.
    `extra_sample_prompt_64_over_512`: what another trajectory of a group adds with a short prompt over what it adds
    with a long one, at best 1 but for attention. `own_prompts_over_shared_prompt_512`: what sharing saves.
    `token_in_1_turn_over_8`: a computed token of one turn over one of eight. `trained_token_vocab_65536_over_8192`:
    what a vocabulary of eight times the size costs.
    """
    update, large = updates_of(VOCAB_SIZE), updates_of(LARGE_VOCAB_SIZE)
    times = medians(
        {
            "group_4": lambda: update(group_size=4, prompt_tokens=256),
            "group_16": lambda: update(group_size=16, prompt_tokens=256),
            "short_4": lambda: update(group_size=4, prompt_tokens=64),
            "short_16": lambda: update(group_size=16, prompt_tokens=64),
            "long_4": lambda: update(group_size=4, prompt_tokens=512),
            "long_16": lambda: update(group_size=16, prompt_tokens=512),
            "own": lambda: update(group_size=16, prompt_tokens=512, shares_prompts=False),
            "one_turn": lambda: update(group_size=8, num_turns=1),
            "eight_turns": lambda: update(group_size=8, num_turns=8),
            "small_vocabulary": lambda: update(group_size=8),
            "large_vocabulary": lambda: large(group_size=8),
        }
    )
    one_turn_tokens, eight_turns_tokens = 64 + 8 * 48, 64 + 8 * (8 * 48 + 7 * 16)
    return {
        "sample_in_group_of_4_over_16": 4 * times["group_4"] / times["group_16"],
        "extra_sample_prompt_64_over_512": (times["short_16"] - times["short_4"])
        / (times["long_16"] - times["long_4"]),
        "own_prompts_over_shared_prompt_512": times["own"] / times["long_16"],
        "token_in_1_turn_over_8": times["one_turn"] / one_turn_tokens / (times["eight_turns"] / eight_turns_tokens),
        "trained_token_vocab_65536_over_8192": times["large_vocabulary"] / times["small_vocabulary"],
    }


def updates_of(vocab_size: int) -> Callable[..., object]:
    """What updates a random policy of that vocabulary on a batch of two groups."""
    from transformers import LlamaConfig, LlamaForCausalLM

    components = compose_components(["trainer.device=cpu", "trainer.token_budget=1000000"], label="scaling")
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    policy = start_policy(components, components.model.load_renderer(), model)
    return lambda **shape: policy.update(made_batch(vocab_size=vocab_size, num_groups=2, **shape), components.loss)


def medians(arms: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, over rounds in which all of them take their turn."""
    torch.manual_seed(0)
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, work in arms.items():
            started = perf_counter()
            work()
            taken[name].append(perf_counter() - started)
    return {name: median(times[1:]) for name, times in taken.items()}
