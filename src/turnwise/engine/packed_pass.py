"""One forward pass over tokens of many trajectories, packed end to end into one row: no padding anywhere.

Only attention knows that the tokens belong to different trajectories; all other layers see a row of exactly the tokens
that are due.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from turnwise.engine.slot_cache import SlotCache

DENSE = 0.75
"""Share of a range of slots from which on attention reads the range where it lies instead of copying its slots."""


class Stretch(NamedTuple):
    """Consecutive tokens of one slot; the first has the position `start`, all before it are in the slot."""

    slot: int
    start: int
    token_ids: Sequence[int]

    @property
    def end(self) -> int:
        """Position behind the last token."""
        return self.start + len(self.token_ids)


class Copy(NamedTuple):
    """Keys and values of the positions `start` to `end`, taken from a slot that has the same tokens up to there."""

    source: int
    target: int
    start: int
    end: int


class PackedPass:
    """What goes through the model in one pass, as tensors, and how attention treats it.

    Stretches of one token, such as every trajectory that decodes, share one call of attention; each longer one has a
    call of its own. First every key and value is written, then copies are made in their order, then all look.
    """

    def __init__(self, cache: SlotCache, stretches: Sequence[Stretch], copies: Sequence[Copy]) -> None:
        """Each stretch has a slot of its own."""
        singles = sorted((s for s in stretches if len(s.token_ids) == 1), key=lambda s: s.slot)
        self._long = [s for s in stretches if len(s.token_ids) > 1]
        self._cache, self._copies, self._device = cache, copies, cache.device
        ordered = [*singles, *self._long]
        token_ids = [token for s in ordered for token in s.token_ids]
        positions = [position for s in ordered for position in range(s.start, s.end)]
        slots = [s.slot for s in ordered for _ in s.token_ids]
        packed = torch.tensor([token_ids, positions, slots], device=self._device)
        self.token_ids, self.positions, slots_M = packed.unbind(0)
        heads_H1 = torch.arange(cache.shape.num_heads, device=self._device)[:, None]
        self._cells = (
            (slots_M * cache.shape.num_heads + heads_H1) * cache.layout.num_columns + self.positions
        ).flatten()
        ends = torch.tensor([len(s.token_ids) for s in ordered]).cumsum(0) - 1
        self.last_rows = dict(zip((s.slot for s in ordered), ends.tolist(), strict=True))
        """By slot, the row of the pass that holds its last token."""
        self._num_singles = len(singles)
        if singles:
            self._prepare(singles)
        self._masks = [self._lower_right(s) if s.start else None for s in self._long]

    def _prepare(self, singles: list[Stretch]) -> None:
        """Where the keys of the stretches of one token lie, in which rows of them, and which of them each may see."""
        slots = [s.slot for s in singles]
        low, high = slots[0], slots[-1] + 1
        self._width = max(s.end for s in singles)
        if len(slots) >= DENSE * (high - low):
            self._rows: slice | Tensor = slice(low, high)
            num_rows = high - low
        else:
            self._rows = torch.tensor(slots, device=self._device)
            num_rows = len(slots)
        last_columns = self.positions[: len(slots)]
        self._places: Tensor | None = None
        if num_rows > len(slots):
            self._places = torch.tensor(slots, device=self._device) - low
            last_columns = self._places.new_zeros(num_rows).index_copy_(0, self._places, last_columns)
        hidden = torch.arange(self._width, device=self._device) > last_columns[:, None]
        self._mask = torch.zeros(num_rows, 1, 1, self._width, dtype=self._cache.shape.dtype, device=self._device)
        self._mask.masked_fill_(hidden[:, None, None], -torch.inf)

    def _lower_right(self, stretch: Stretch) -> Tensor:
        mask = torch.ones(len(stretch.token_ids), stretch.end, dtype=torch.bool, device=self._device)
        return mask.tril_(stretch.start)

    def attend(self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Writes the keys and values of one layer into the slots; returns what the queries find, `[1, M, H, D]`.

        Args:
            layer_idx: The layer.
            query: `[1, H, M, D]`.
            key: `[1, heads of the cache, M, D]`.
            value: As `key`.
            scaling: Of the scores; None for 1 / sqrt(D).
        """
        shape = self._cache.shape
        if not key.shape[1::2] == value.shape[1::2] == (shape.num_heads, shape.head_size):
            raise ValueError(f"keys {[*key.shape]} and values {[*value.shape]} do not fit the slots' {shape}")
        layer = self._cache.layers[layer_idx]
        for stored, fresh in zip(layer, (key, value), strict=True):
            stored.view(-1, shape.head_size).index_copy_(0, self._cells, fresh.reshape(-1, shape.head_size))
        for source, target, start, end in self._copies:
            layer[:, target, :, start:end] = layer[:, source, :, start:end]

        query_MHD = query[0].transpose(0, 1)
        found_MHD = torch.empty_like(query_MHD, memory_format=torch.contiguous_format)
        if self._num_singles:
            found_MHD[: self._num_singles] = self._attend_singles(query_MHD[: self._num_singles], layer, scaling)
        begin = self._num_singles
        for stretch, mask in zip(self._long, self._masks, strict=True):
            end = begin + len(stretch.token_ids)
            seen = layer[:, None, stretch.slot, :, : stretch.end]
            if mask is not None and query.is_cuda:  # where the fast kernels take either a mask or heads that share keys
                seen = seen.repeat_interleave(query.shape[1] // shape.num_heads, dim=2)
            found = scaled_dot_product_attention(
                query[:, :, begin:end],
                *seen,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=True,
            )
            found_MHD[begin:end] = found[0].transpose(0, 1)
            begin = end
        return found_MHD[None]

    def _attend_singles(self, query_SHD: Tensor, layer: Tensor, scaling: float | None) -> Tensor:
        """The heads that share keys stand in the place of the query's length, so no key is repeated for them."""
        seen = layer[:, :, :, : self._width]
        if isinstance(self._rows, slice):
            keys, values = seen[:, self._rows]
        else:
            keys, values = (side.index_select(0, self._rows) for side in seen)
        queries = query_SHD.unflatten(1, (keys.shape[1], -1))
        if self._places is not None:
            queries = queries.new_zeros(keys.shape[0], *queries.shape[1:]).index_copy_(0, self._places, queries)
        found = scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask, scale=scaling)
        if self._places is not None:
            found = found.index_select(0, self._places)
        return found.flatten(1, 2)
