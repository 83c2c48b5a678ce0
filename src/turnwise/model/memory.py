"""What a run needs of a device's memory, from the shapes of the model's parameters: nothing is loaded."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

GIB = 2**30
FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The numbers of a causal language model that decide what it takes."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_key_value_channels: int
    """Heads of keys times their size; values have as many."""
    vocab_size: int

    @classmethod
    def of(cls, model: nn.Module) -> "ModelShape":
        """That of a model of transformers, which may be on the meta device."""
        config = cast(Any, model).config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            num_parameters=sum(weight.numel() for weight in model.parameters()),
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_key_value_channels=heads * size,
            vocab_size=config.vocab_size,
        )


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by what takes them, on one device, for a policy and an engine side by side.

    Weights, gradients, optimiser and engine are exact. Activations are those of the largest micro-batch, counted by
    the tensors that the backward pass of a Llama-like block needs, and are the part that may be off.
    """

    weights: int
    gradients: int
    optimiser: int
    reference: int
    engine_weights: int
    cache: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Of all together."""
        return sum(self.parts.values())

    def sharded(self, num_devices: int) -> float:
        """Of all together on each device, where what is trained and the reference are dealt out over several."""
        dealt_out = self.weights + self.gradients + self.optimiser + self.reference
        return self.total - dealt_out * (1 - 1 / num_devices)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by the name of what takes them."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser": self.optimiser,
            "reference policy": self.reference,
            "engine's weights": self.engine_weights,
            "keys and values": self.cache,
            "activations": self.activations,
            "logits": self.logits,
        }


def estimate_memory(
    shape: ModelShape,
    *,
    dtype: torch.dtype,
    token_budget: int,
    logit_chunk: int,
    cache_bytes: int,
    has_reference: bool = False,
    gradient_checkpointing: bool = False,
    num_trained: int | None = None,
) -> MemoryEstimate:
    """What training with a local engine takes on one device.

    Args:
        shape: Of the model.
        dtype: Of the passes and of the engine's copy.
        token_budget: Tokens of the largest micro-batch.
        logit_chunk: Tokens whose logits are held at once.
        cache_bytes: What the engine keeps keys and values in.
        has_reference: Whether the loss compares with a frozen copy.
        gradient_checkpointing: Whether layers are computed twice.
        num_trained: Parameters that are trained where that is an adapter; None: all of them, in float32.
    """
    size = dtype.itemsize
    frozen_bytes = shape.num_parameters * (FLOAT32_BYTES if num_trained is None else size)
    trained = shape.num_parameters if num_trained is None else num_trained
    autocast_copy = shape.num_parameters * size if num_trained is None and dtype is not torch.float32 else 0
    block = _block_bytes(shape, size)
    kept = shape.num_layers * shape.hidden_size * size + block if gradient_checkpointing else shape.num_layers * block
    return MemoryEstimate(
        weights=frozen_bytes + (0 if num_trained is None else num_trained * FLOAT32_BYTES),
        gradients=trained * FLOAT32_BYTES,
        optimiser=2 * trained * FLOAT32_BYTES,
        reference=frozen_bytes if has_reference else 0,
        engine_weights=shape.num_parameters * size,
        cache=cache_bytes,
        activations=token_budget * kept + autocast_copy,
        logits=2 * min(logit_chunk, token_budget) * shape.vocab_size * FLOAT32_BYTES,
    )


def _block_bytes(shape: ModelShape, size: int) -> int:
    """Of one token in one block: two norms (input, output), projections, attention, gated feed-forward, residuals."""
    channels = 8 * shape.hidden_size + 2 * shape.num_key_value_channels + 4 * shape.intermediate_size
    return channels * size
