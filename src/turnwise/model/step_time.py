"""What a step takes, from the shapes of the model and the rates of a device: nothing is loaded."""

from dataclasses import dataclass
from time import perf_counter

import torch

from turnwise.model.memory import FLOAT32_BYTES, ModelShape

MEASURED_S = 0.25
"""Seconds of work whose rate is taken."""
COPIED_BYTES = 2**28
UPDATE_SHARE = 0.5
"""Of the rate of large products that updates reach: norms, attention and casts lie between them."""
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
    max_batch_size: int
    """Trajectories that are sampled side by side."""
    token_budget: int
    num_epochs: int = 1
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
    """Seconds of a step: without tools, rewards and waiting for the longest trajectory."""

    prefill_s: float
    decode_s: float
    update_s: float

    @property
    def total_s(self) -> float:
        """Of all together."""
        return self.prefill_s + self.decode_s + self.update_s


def estimate_step(
    shape: ModelShape, size: StepSize, rates: Rates, *, dtype: torch.dtype, num_trained: int, num_devices: int = 1
) -> StepTime:
    """Seconds of a step whose work several devices share evenly.

    The update has 6 FLOPs for each weight and token (4 where the weights are frozen under an adapter), 2 more with
    gradient checkpointing, 2 for each pass without gradient, and attention. Decoding is bound by memory: every pass
    reads all weights, and keys and values of every row; only where products take longer are they what counts.

    Args:
        shape: Of the model.
        size: Of the step.
        rates: Of one device.
        dtype: Of the passes.
        num_trained: Parameters that are trained.
        num_devices: That share the trajectories of a step.
    """
    trajectories = -(-size.num_trajectories // num_devices)
    problems = min(size.num_problems, trajectories)
    layers, head = shape.num_layer_weights, shape.head_size
    sampled = trajectories * size.new_tokens
    computed = problems * size.prompt_tokens + sampled
    attention = 4 * shape.num_layers * shape.num_query_channels  # forward, for a token and each that it attends to
    length = size.prompt_tokens + size.new_tokens
    contexts = problems * size.prompt_tokens**2 / 2 + sampled * (size.prompt_tokens + size.new_tokens / 2)
    forward = 2 * (layers * computed + head * sampled) + attention * contexts
    passes = (2 if size.trains_adapter else 3) + (1 if size.gradient_checkpointing else 0)
    flops = forward * (passes * size.num_epochs + (not size.is_on_policy) + size.has_reference)
    micro_batches = max(1.0, computed / size.token_budget)
    adamw_s = ADAMW_PASSES * FLOAT32_BYTES * num_trained / num_devices / rates.bytes * size.num_epochs
    update_s = flops / rates.flops / UPDATE_SHARE + adamw_s
    update_s += micro_batches * passes * size.num_epochs * shape.num_layers * LAYER_PASS_S

    prefill_s = (2 * layers * problems * size.prompt_tokens) / rates.flops / UPDATE_SHARE
    rows = min(trajectories, size.max_batch_size)
    num_passes = -(-trajectories // rows) * size.new_tokens
    weight_bytes = (layers + head) * dtype.itemsize
    cached = 2 * shape.num_layers * shape.num_key_value_channels * dtype.itemsize
    reads_s = (weight_bytes + rows * cached * length) / rates.bytes
    products_s = rows * (2 * (layers + head) + attention * length) / rates.flops / UPDATE_SHARE
    pass_s = max(reads_s, products_s) + shape.num_layers * LAYER_PASS_S
    return StepTime(prefill_s=prefill_s, decode_s=num_passes * pass_s, update_s=update_s)


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
