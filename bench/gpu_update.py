"""Update of a random Qwen2.5 on a GPU: share of its peak by attention kernel, against padding, with shared prompts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from arms import in_turns
from flops import update_flops
from made_batch import made_batch, shortened
from padded import PaddedUpdate
from random_qwen import random_model
from turnwise.config.sweep import compose_components
from turnwise.config.wiring import compute_dtype, start_policy
from turnwise.model.attention import Attention, choose_attention
from turnwise.model.prefix_tree import micro_batches
from turnwise.model.token_logprobs import Scoring
from turnwise.model.tree_attention import use_tree_attention
from turnwise.protocols import Policy, PolicyLoss
from turnwise.types import TokenBatch

ROUNDS = 4
"""Of which the first does not count."""


def measure_update(
    config: Any, device: torch.device, peak_flops: float, *, token_budget: int = 4096, num_rows: int = 16
) -> dict[str, float]:
    """Figures of one size of model, whose passes are in bfloat16; medians over rounds in which all take turns.

    `KERNEL_share`: model FLOPs per second over `peak_flops`, for packed rows of `token_budget` tokens each, four
    sequences in a row, a quarter of it prompt; `KERNEL_s` and `KERNEL_peak_mib` are its time and peak memory. The
    target on an H100 is 45% at 1.5 billion weights. `padded_over_packed`: sequences of a quarter to the whole of that
    length, in no order, padded (`PaddedUpdate`) and packed; the peak memory of these two holds the optimisers of both.
    `own_prompts_over_shared`: groups of eight whose prompt is as long as 2.7 continuations. All that is packed runs
    with the kernel that `auto` takes, but for what is named after one.

    Args:
        config: Of the model.
        device: Where it is trained.
        peak_flops: FLOP/s that count as 100%.
        token_budget: A multiple of 32.
        num_rows: Packed rows of an optimiser step.
    """
    components = compose_components(
        ["trainer.dtype=bfloat16", f"trainer.token_budget={token_budget}", f"trainer.logit_chunk={token_budget}"],
        label="gpu",
    )
    dtype = compute_dtype(components, device)
    model = random_model(config, device, torch.float32)
    policy = start_policy(components, components.model.load_renderer(), model)

    def packed(kernel: Attention, batch: TokenBatch) -> Callable[[], None]:
        num_parts = len(micro_batches(batch, token_budget))
        return partial(_update, policy, components.loss, model, kernel, batch, num_parts)

    rows, ragged, shared, own = made_batches(config.vocab_size, token_budget, num_rows)
    kernels, best = usable_kernels(device, dtype), choose_attention(Attention.auto, device, dtype).kernel
    arms = {str(kernel): packed(kernel, rows) for kernel in kernels}
    taken = in_turns(arms | {"shared": packed(best, shared), "own_prompts": packed(best, own)}, device, ROUNDS)
    scoring = Scoring(chunk=token_budget, dtype=dtype)
    padded = PaddedUpdate(model, components.loss, token_budget=token_budget, scoring=scoring)
    taken |= in_turns({"packed": packed(best, ragged), "padded": partial(padded.update, ragged)}, device, ROUNDS)
    figures: dict[str, float] = {}
    flops = update_flops(config, rows, token_budget)
    for name in (str(kernel) for kernel in kernels if kernel in taken):
        figures[f"{name}_share"] = flops / taken[name].seconds / peak_flops
        figures[f"{name}_s"] = taken[name].seconds
        figures[f"{name}_peak_mib"] = taken[name].peak_mib
    for slow, fast in (("padded", "packed"), ("own_prompts", "shared")):
        if slow in taken and fast in taken:
            figures[f"{slow}_over_{fast}"] = taken[slow].seconds / taken[fast].seconds
        figures |= {f"{name}_peak_mib": taken[name].peak_mib for name in (slow, fast) if name in taken}
    return figures


def made_batches(
    vocab_size: int, token_budget: int, num_rows: int
) -> tuple[TokenBatch, TokenBatch, TokenBatch, TokenBatch]:
    """Sequences of equal length, four to a row; the same made ragged; groups of eight, a row each; without sharing."""
    quarter = token_budget // 4
    prompt, num_sequences = quarter // 4, 4 * num_rows
    plain: dict[str, Any] = {"prompt_tokens": prompt, "turn_tokens": quarter - prompt, "shares_prompts": False}
    rows = made_batch(vocab_size=vocab_size, num_groups=num_rows, group_size=4, **plain)
    shuffled = torch.randperm(num_sequences, generator=torch.Generator().manual_seed(0)).tolist()
    lengths = [quarter // 4 + 1 + (quarter - quarter // 4 - 1) * place // (num_sequences - 1) for place in shuffled]
    grouped: dict[str, Any] = {"vocab_size": vocab_size, "num_groups": max(1, num_rows // 2), "group_size": 8}
    grouped |= {"prompt_tokens": quarter, "turn_tokens": 3 * quarter // 8}
    return rows, shortened(rows, lengths), made_batch(**grouped), made_batch(**grouped, shares_prompts=False)


def usable_kernels(device: torch.device, dtype: torch.dtype) -> list[Attention]:
    """The kernels that a user may name here, fastest first, but for the plain definition; says what is missing."""
    kernels = []
    for kernel in Attention:
        if kernel in (Attention.auto, Attention.eager):
            continue
        try:
            kernels.append(choose_attention(kernel, device, dtype).kernel)
        except ValueError as error:
            print(f"  without {kernel}: {error}", flush=True)
    return kernels


def _update(policy: Policy, loss: PolicyLoss, model: Any, kernel: Attention, batch: TokenBatch, num_parts: int) -> None:
    """One update with that kernel.

    Raises:
        torch.OutOfMemoryError: Also where the policy helped itself with smaller micro-batches: that is other work.
    """
    model.config._attn_implementation = str(kernel)
    use_tree_attention(model)
    if policy.update(batch, loss).metrics["update/num_micro_batches"] != num_parts:
        raise torch.OutOfMemoryError(f"{num_parts} micro-batches do not fit")
