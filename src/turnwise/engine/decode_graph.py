"""Decoding on a GPU by replay: a pass of static shape is recorded once and then costs one launch, not thousands.

A pass in which every trajectory decodes is the same work over and over; only its numbers change. Here they are written
into tensors that stay where they are, for a range of slots and of columns that is a little larger than needed, so that
a handful of recordings serves all of sampling.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from turnwise.engine.packed_pass import Stretch
from turnwise.engine.slot_cache import SlotCache

log = logging.getLogger(__name__)

COLUMNS_AT_ONCE = 256
"""Recordings see a multiple of so many columns."""


class StaticPass:
    """A pass of one token for each of the first slots; what stands in its tensors may change between two runs.

    A slot that does not decode takes part with a token whose keys and values are not kept, and which nobody reads.
    """

    def __init__(self, cache: SlotCache, num_rows: int, num_columns: int) -> None:
        self._cache = cache
        self._num_columns = num_columns
        self.token_ids = torch.zeros(num_rows, dtype=torch.int64, device=cache.device)
        self.positions = torch.zeros_like(self.token_ids)
        self._is_decoding = torch.zeros(num_rows, dtype=torch.bool, device=cache.device)

    def fill(self, stretches: Sequence[Stretch]) -> None:
        """Puts the tokens of a pass in their places."""
        rows = torch.zeros(3, self.token_ids.numel(), dtype=torch.int64)
        for slot, start, (token_id,) in stretches:
            rows[:, slot] = torch.tensor([token_id, start, 1])
        for target, row in zip((self.token_ids, self.positions, self._is_decoding), rows, strict=True):
            target.copy_(row)

    def attend(self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """As `PackedPass.attend`, without a shape that depends on what is decoded."""
        num_rows, heads, size = self.token_ids.numel(), key.shape[1], query.shape[-1]
        slots_S1 = torch.arange(num_rows, device=query.device)[:, None]
        heads_H = torch.arange(heads, device=query.device)
        cells = ((slots_S1 * heads + heads_H) * self._cache.layout.num_columns + self.positions[:, None]).flatten()
        is_decoding = self._is_decoding.repeat_interleave(heads)[:, None]
        found = []
        for stored, fresh in zip(self._cache.layers[layer_idx], (key, value), strict=True):
            flat = stored.view(-1, size)
            flat.index_copy_(0, cells, torch.where(is_decoding, fresh[0].transpose(0, 1).flatten(0, 1), flat[cells]))
            found.append(stored[:num_rows, :, : self._num_columns])
        seen_SC = torch.arange(self._num_columns, device=query.device) <= self.positions[:, None]
        queries = query[0].transpose(0, 1).reshape(num_rows, heads, -1, size)
        attended = scaled_dot_product_attention(queries, *found, attn_mask=seen_SC[:, None, None], scale=scaling)
        return attended.reshape(1, num_rows, -1, size)


class DecodeGraphs:
    """Recordings of static passes over one cache, by the range of slots and columns that they cover."""

    def __init__(self, cache: SlotCache, run: Callable[[StaticPass], Tensor]) -> None:
        """`run` sends a pass through the model and returns the logits `[rows, V]` after each of its tokens."""
        self.cache = cache
        self._run = run
        self._pool = torch.cuda.graph_pool_handle()
        self._recorded: dict[tuple[int, int], tuple[StaticPass, torch.cuda.CUDAGraph, Tensor]] = {}

    def logits(self, stretches: Sequence[Stretch], slots: Sequence[int]) -> Tensor:
        """Runs a pass of single tokens; the logits `[len(slots), V]` after those of the given slots."""
        size = self.size(stretches)
        if size not in self._recorded:
            self._recorded[size] = self._record(size, stretches)
        static, graph, logits = self._recorded[size]
        static.fill(stretches)
        graph.replay()
        return logits[torch.tensor(slots, device=logits.device)]

    def size(self, stretches: Sequence[Stretch]) -> tuple[int, int]:
        """Slots, rounded up to a power of two, and columns of the recording that serves a pass."""
        layout = self.cache.layout
        num_rows = 1 << max(stretch.slot for stretch in stretches).bit_length()
        width = max(stretch.end for stretch in stretches)
        num_columns = -(-width // COLUMNS_AT_ONCE) * COLUMNS_AT_ONCE
        return min(num_rows, layout.num_slots), min(num_columns, layout.num_columns)

    def _record(
        self, size: tuple[int, int], stretches: Sequence[Stretch]
    ) -> tuple[StaticPass, torch.cuda.CUDAGraph, Tensor]:
        static = StaticPass(self.cache, *size)
        static.fill(stretches)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is set up at a first run must not be recorded
            self._run(static)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # The policy may be trained in another thread meanwhile: its work is no part of the recording.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._run(static)
        log.info("recorded a decoding pass of %d slots and %d columns", *size)
        return static, graph, logits
