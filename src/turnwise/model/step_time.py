"""What a step takes, from the shapes of the model and the rates of a device: nothing is loaded.

Where a little of a step was done on the device, what it took replaces what is but assumed of devices in general.
`make bench ARGS=step_time` holds both against whole steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import fmean, pstdev
from time import perf_counter
from typing import NamedTuple

import torch

from turnwise.model.memory import FLOAT32_BYTES, ModelShape

MEASURED_S = 0.25
"""Seconds of work whose rate is taken."""
COPIED_BYTES = 2**28
PASS_SHARE = 0.5
"""Of the rate of large products that passes reach: norms, attention and casts lie between them."""
LAYER_PASS_S = 2e-4
"""Seconds that a layer of a pass takes however few tokens there are: calls and small operations."""
ADAMW_PASSES = 7
"""How often AdamW reads or writes a number for each weight: weight, gradient and two moments, and all but one back."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device can do: FLOP/s of matrix products in the precision of the passes, bytes/s of its memory."""

    flops: float
    bytes: float


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """How much is sampled and trained on; lengths are means over trajectories."""

    num_problems: int
    group_size: int
    prompt_tokens: float
    new_tokens: float
    """Behind the prompt; a tool's output is counted as if it were sampled."""
    longest_tokens: float
    """Behind the prompt of the longest trajectory, for which a step waits."""
    max_batch_size: int
    """Trajectories that are sampled side by side."""
    token_budget: int
    num_epochs: int = 1
    num_minibatches: int = 1
    is_on_policy: bool = True
    has_reference: bool = False
    gradient_checkpointing: bool = False
    trains_adapter: bool = False

    @property
    def num_trajectories(self) -> int:
        """Of a step."""
        return self.num_problems * self.group_size


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step, without tools and rewards."""

    prefill_s: float
    decode_s: float
    update_s: float

    @property
    def total_s(self) -> float:
        """Of all together."""
        return self.prefill_s + self.decode_s + self.update_s


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What a little of a step took."""

    size: StepSize
    seconds: float


def estimate_step(
    shape: ModelShape,
    size: StepSize,
    rates: Rates,
    *,
    dtype: torch.dtype,
    num_trained: int,
    num_devices: int = 1,
    sampled: Timed | None = None,
    updated: Timed | None = None,
) -> StepTime:
    """Seconds of a step whose work several devices share evenly.

    The update has 6 FLOPs for each weight and token (4 where the weights are frozen under an adapter), 2 more with
    gradient checkpointing, 2 for each pass without gradient, and attention. Decoding is bound by memory: every pass
    reads all weights, and keys and values of every row; only where products take longer are they what counts. There
    are as many passes as the longest trajectory has tokens, or more where not all fit side by side.

    Args:
        shape: Of the model.
        size: Of the step.
        rates: Of one device.
        dtype: Of the passes.
        num_trained: Parameters that are trained.
        num_devices: That share the trajectories of a step.
        sampled: What sampling took on one such device, if it was tried: what its passes took beside their work is what
            a layer of a pass takes however few tokens there are.
        updated: What an update took, if it was tried: that of the step is as much slower or faster than its size says.
    """
    layer_pass_s, slowness = LAYER_PASS_S, 1.0
    if sampled is not None:
        work = _sampling(shape, sampled.size, rates, dtype, num_devices=1)
        idle_s = sampled.seconds - work.seconds(shape, layer_pass_s=0.0)
        layer_pass_s = max(idle_s, 0.0) / (work.num_passes * shape.num_layers)
    if updated is not None:
        slowness = updated.seconds / _update_s(shape, updated.size, rates, num_trained, num_devices=1)
    work = _sampling(shape, size, rates, dtype, num_devices)
    return StepTime(
        prefill_s=work.prefill_s,
        decode_s=work.seconds(shape, layer_pass_s=layer_pass_s) - work.prefill_s,
        update_s=slowness * _update_s(shape, size, rates, num_trained, num_devices),
    )


class _Sampling(NamedTuple):
    prefill_s: float
    num_passes: float
    pass_s: float

    def seconds(self, shape: ModelShape, *, layer_pass_s: float) -> float:
        return self.prefill_s + self.num_passes * (self.pass_s + shape.num_layers * layer_pass_s)


def _sampling(shape: ModelShape, size: StepSize, rates: Rates, dtype: torch.dtype, num_devices: int) -> _Sampling:
    """Of each device: the prompts, and passes without what a pass takes however few tokens there are."""
    trajectories = -(-size.num_trajectories // num_devices)
    weights = shape.num_layer_weights + shape.head_size
    prompts = min(size.num_problems, trajectories) * size.prompt_tokens
    sampled, length = trajectories * size.new_tokens, size.prompt_tokens + size.new_tokens
    num_passes = max(size.longest_tokens, sampled / min(trajectories, size.max_batch_size), 1.0)
    rows = sampled / num_passes  # in the mean, the last trajectories being alone
    cached = 2 * shape.num_layers * shape.num_key_value_channels * dtype.itemsize
    reads_s = (weights * dtype.itemsize + rows * cached * length) / rates.bytes
    attention = 4 * shape.num_layers * shape.num_query_channels * length
    products_s = rows * (2 * weights + attention) / rates.flops / PASS_SHARE
    prefill_s = 2 * shape.num_layer_weights * prompts / rates.flops / PASS_SHARE
    return _Sampling(prefill_s, num_passes, max(reads_s, products_s))


def _update_s(shape: ModelShape, size: StepSize, rates: Rates, num_trained: int, num_devices: int) -> float:
    """Of each device: passes, the optimiser's steps, and what a layer takes however few tokens there are."""
    trajectories = -(-size.num_trajectories // num_devices)
    problems = min(size.num_problems, trajectories)
    sampled = trajectories * size.new_tokens
    computed = problems * size.prompt_tokens + sampled
    attention = 4 * shape.num_layers * shape.num_query_channels  # forward, for a token and each that it attends to
    contexts = problems * size.prompt_tokens**2 / 2 + sampled * (size.prompt_tokens + size.new_tokens / 2)
    forward = 2 * (shape.num_layer_weights * computed + shape.head_size * sampled) + attention * contexts
    passes = (2 if size.trains_adapter else 3) + (1 if size.gradient_checkpointing else 0)
    flops = forward * (passes * size.num_epochs + (not size.is_on_policy) + size.has_reference)
    micro_batches = max(size.num_minibatches, computed / size.token_budget)
    adamw_s = ADAMW_PASSES * FLOAT32_BYTES * num_trained / num_devices / rates.bytes
    return (
        flops / rates.flops / PASS_SHARE
        + adamw_s * size.num_epochs * size.num_minibatches
        + micro_batches * passes * size.num_epochs * shape.num_layers * LAYER_PASS_S
    )


def longest_of(lengths: Sequence[float], count: int, limit: float) -> float:
    """The longest of `count` trajectories of which `lengths` are a few: m + s sqrt(2 log n), at most `limit`.

    No more than that is to be expected of the largest of n draws from a normal distribution.
    """
    return min(limit, max(*lengths, fmean(lengths) + pstdev(lengths) * sqrt(2 * log(count))))


def measured_rates(shape: ModelShape, dtype: torch.dtype, device: torch.device, num_tokens: int) -> Rates:
    """Those of the device at hand: of products of so many tokens with a layer of the model, and of copies."""
    tokens = torch.randn(num_tokens, shape.hidden_size, device=device).to(dtype)
    weight = torch.randn(shape.intermediate_size, shape.hidden_size, device=device).to(dtype)
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def rate(amount: float, work: str) -> float:
        count, started = 0, 0.0
        while count < 2 or perf_counter() - started < MEASURED_S:
            if count == 1:  # what is set up at a first call does not count
                started = perf_counter()
            if work == "products":
                torch.nn.functional.linear(tokens, weight)
            else:
                target.copy_(source)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            count += 1
        return (count - 1) * amount / (perf_counter() - started)

    return Rates(flops=rate(2 * tokens.numel() * weight.shape[0], "products"), bytes=rate(2 * COPIED_BYTES, "copies"))
