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

    A slot that does not decode takes part with a token in the last column of the cache. No trajectory ever runs a token
    there: the one that would come to lie in it is the last that may be sampled.
    """

    def __init__(self, cache: SlotCache, num_rows: int, num_columns: int) -> None:
        shape, layout = cache.shape, cache.layout
        self._cache = cache
        self._packed = torch.zeros(2, num_rows, dtype=torch.int64, device=cache.device)
        self.token_ids, self.positions = self._packed.unbind(0)
        first_cells = torch.arange(2 * layout.num_slots * shape.num_heads, device=cache.device) * layout.num_columns
        first_cells_2SH = first_cells.view(2, layout.num_slots, shape.num_heads)[:, :num_rows]
        self._first_cells_2HS = first_cells_2SH.transpose(1, 2).contiguous()
        self._cells = torch.zeros_like(self._first_cells_2HS)
        self._columns_C = torch.arange(num_columns, device=cache.device)
        # With rows that begin at multiples of 16 numbers attention takes the mask as it is, instead of a copy a layer.
        room = torch.zeros(num_rows, 1, 1, -(-num_columns // 16) * 16, dtype=shape.dtype, device=cache.device)
        self._mask = room[..., :num_columns]

    def fill(self, stretches: Sequence[Stretch]) -> None:
        """Puts the tokens of a pass in their places, with one transfer."""
        num_rows = self.token_ids.numel()
        token_ids, positions = [0] * num_rows, [self._cache.layout.num_columns - 1] * num_rows
        for slot, start, (token_id,) in stretches:
            token_ids[slot], positions[slot] = token_id, start
        self._packed.copy_(torch.tensor([token_ids, positions]))

    def aim(self) -> None:
        """From the positions, what all layers share: where keys and values go, and which columns are seen."""
        torch.add(self._first_cells_2HS, self.positions, out=self._cells)
        hidden_SC = self._columns_C > self.positions[:, None]
        self._mask.zero_().masked_fill_(hidden_SC[:, None, None], -torch.inf)

    def attend(self, layer_idx: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """As `PackedPass.attend`, without a shape that depends on what is decoded."""
        num_rows, num_columns, size = self.token_ids.numel(), self._columns_C.numel(), query.shape[-1]
        layer = self._cache.layers[layer_idx]
        layer.view(-1, size).index_copy_(0, self._cells.flatten(), torch.stack((key[0], value[0])).view(-1, size))
        keys, values = layer[:, :num_rows, :, :num_columns]
        queries = query[0].transpose(0, 1).reshape(num_rows, keys.shape[1], -1, size)
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask, scale=scaling)
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
        # Before the replay, which the transfer would wait for.
        rows = torch.tensor(slots, dtype=torch.int64, device=logits.device)
        graph.replay()
        return logits[rows]

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
            self._launch(static)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # The policy may be trained in another thread meanwhile: its work is no part of the recording.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._launch(static)
        log.info("recorded a decoding pass of %d slots and %d columns", *size)
        return static, graph, logits

    def _launch(self, static: StaticPass) -> Tensor:
        static.aim()
        return self._run(static)
