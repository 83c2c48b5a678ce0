"""What a run needs of a device's memory, from the shapes of the model's parameters: nothing is loaded.

`make bench ARGS=memory` measures it, and docs/PERFORMANCE.md has both side by side.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

GIB = 2**30
FLOAT32_BYTES = 4
LOST_ON_CPU = 1.1
"""What activations take of a CPU's memory over what they hold: between tensors of many sizes something stays free."""
BLOCK_BYTES = 3 * 4 * 2**21
"""Logits that are worked on in float32 at a time, their probabilities and their gradient (`token_logprobs`)."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The numbers of a causal language model that decide what it takes."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_query_channels: int
    """Heads of queries times their size; so many numbers attention gives."""
    num_key_value_channels: int
    """Heads of keys times their size; values have as many."""
    vocab_size: int
    is_tied: bool
    """Whether output and input embedding are one tensor."""

    @property
    def head_size(self) -> int:
        """Weights of the output embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def num_layer_weights(self) -> int:
        """All but the embeddings: what every token is multiplied by, where there are no experts."""
        return self.num_parameters - self.head_size * (1 if self.is_tied else 2)

    def adapter_size(self, rank: int) -> int:
        """Parameters of a low-rank adapter beside every linear layer but the head."""
        hidden, queries, keys = self.hidden_size, self.num_query_channels, self.num_key_value_channels
        attention = 2 * (hidden + queries) + 2 * (hidden + keys)
        return self.num_layers * rank * (attention + 3 * (hidden + self.intermediate_size))

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
            num_query_channels=config.num_attention_heads * size,
            num_key_value_channels=heads * size,
            vocab_size=config.vocab_size,
            is_tied=bool(config.tie_word_embeddings),
        )


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by what takes them, on one device, for a policy and an engine side by side.

    Weights, gradients, optimiser and engine are exact. Activations are those of the largest micro-batch, counted by
    the tensors that the backward pass of a Llama-like block needs, and are the part that may be off.
    """

    runtime: int
    weights: int
    gradients: int
    optimiser: int
    reference: int
    merged: int
    """With an adapter: all weights with it merged into them, as they are handed over."""
    engine_weights: int
    cache: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Of all together."""
        return sum(self.parts.values())

    def sharded(self, num_devices: int) -> float:
        """Of all together on each device, where what is trained and the reference are dealt out over several.

        Of two moments the one that takes more: the update, and the hand-over of weights to the engine, for which every
        device gathers all of them when the micro-batches are gone.
        """
        if num_devices == 1:
            return self.total
        dealt_out = self.weights + self.gradients + self.optimiser + self.reference
        update = self.total - dealt_out * (1 - 1 / num_devices)
        return max(update, update - self.activations - self.logits + self.weights)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by the name of what takes them."""
        return {
            "libraries": self.runtime,
            "weights": self.weights,
            "gradients": self.gradients,
            "optimiser": self.optimiser,
            "reference policy": self.reference,
            "merged weights": self.merged,
            "engine's weights": self.engine_weights,
            "keys and values at most": self.cache,
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
    on_cpu: bool = True,
    runtime_bytes: int = 0,
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
        on_cpu: Where the engine holds a tied output embedding twice, and attention is computed in float32.
        runtime_bytes: What the process takes before there is a model.
    """
    size = dtype.itemsize
    frozen_bytes = shape.num_parameters * (FLOAT32_BYTES if num_trained is None else size)
    trained = shape.num_parameters if num_trained is None else num_trained
    autocast_copy = shape.num_parameters * size if num_trained is None and dtype is not torch.float32 else 0
    block = _block_bytes(shape, size, FLOAT32_BYTES if on_cpu else size)
    # Two blocks more: the one that is differentiated has gradients and temporary tensors of about twice its size.
    kept = shape.num_layers * block + 2 * block
    if gradient_checkpointing:
        kept = shape.num_layers * shape.hidden_size * size + 3 * block
    # Gradients of the output embedding: summed up, a chunk's own, and that of the input embedding where they are one.
    of_head = 0 if num_trained is not None else (3 if shape.is_tied else 1) * shape.head_size * FLOAT32_BYTES
    return MemoryEstimate(
        runtime=runtime_bytes,
        weights=frozen_bytes + (0 if num_trained is None else num_trained * FLOAT32_BYTES),
        gradients=trained * FLOAT32_BYTES,
        optimiser=2 * trained * FLOAT32_BYTES,
        reference=frozen_bytes if has_reference else 0,
        merged=0 if num_trained is None else shape.num_parameters * FLOAT32_BYTES,
        engine_weights=(shape.num_parameters + (shape.head_size if on_cpu and shape.is_tied else 0)) * size,
        cache=cache_bytes,
        activations=round(token_budget * kept * (LOST_ON_CPU if on_cpu else 1.0)) + autocast_copy,
        logits=min(logit_chunk, token_budget) * shape.vocab_size * size + BLOCK_BYTES + of_head,
    )


def _block_bytes(shape: ModelShape, size: int, attention_size: int) -> int:
    """What one token leaves in one block for the backward pass.

    Of each of two norms its input and what it divides, in float32, and its output; of attention queries, keys, values
    and its result, and the latter as the output's input; of the gated feed-forward gate, activation, up and product.
    """
    norms = 2 * (2 * FLOAT32_BYTES + size) * shape.hidden_size
    attended = attention_size * 2 * (shape.num_query_channels + shape.num_key_value_channels)
    return norms + attended + size * (shape.num_query_channels + 4 * shape.intermediate_size)
