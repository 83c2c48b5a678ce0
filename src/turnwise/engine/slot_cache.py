"""Keys and values of the trajectories that an engine holds: one slot each, for as long as the trajectory lives."""

import mmap
from typing import Any, NamedTuple

import torch


class SlotShape(NamedTuple):
    """What one token leaves in a slot: keys and values of so many layers, heads and numbers."""

    num_layers: int
    num_heads: int
    head_size: int
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Any) -> "SlotShape":
        """That of a causal language model of transformers."""
        config = model.config.get_text_config()
        return cls(
            num_layers=config.num_hidden_layers,
            num_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            dtype=model.dtype,
        )

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token."""
        return self.num_layers * 2 * self.num_heads * self.head_size * self.dtype.itemsize


class SlotLayout(NamedTuple):
    """How many slots there are, and for how many tokens each."""

    num_slots: int
    num_columns: int


class SlotCache:
    """`[layers, 2, slots, heads, columns, head size]`: keys, then values; the token at position p lies in column p.

    Attention may look at columns that hold nothing yet, or what an earlier trajectory left there: it is masked, and it
    is finite, so it counts for nothing.
    """

    def __init__(self, shape: SlotShape, layout: SlotLayout, device: torch.device) -> None:
        self.shape = shape
        self.layout = layout
        self.device = device
        sizes = (shape.num_layers, 2, layout.num_slots, shape.num_heads, layout.num_columns, shape.head_size)
        if device.type == "cpu":
            # Anonymous pages are zeros, and take memory only when they are written: columns that no trajectory
            # reaches cost nothing. `torch.zeros` would write them all.
            pages = mmap.mmap(-1, layout.num_slots * layout.num_columns * shape.bytes_per_token)
            storage = torch.frombuffer(pages, dtype=shape.dtype).view(sizes)
        else:
            storage = torch.zeros(sizes, dtype=shape.dtype, device=device)
        self.layers = storage.unbind(0)
