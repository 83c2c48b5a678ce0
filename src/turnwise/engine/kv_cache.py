"""Keys and values: of the batch that is being decoded, and of turns that may be continued."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


class BatchCache:
    """Keys and values of B ragged rows in one preallocated tensor `[layers, 2, B, heads, columns, head size]`.

    It answers the calls that transformers' models make on their caches, so any decoder with full attention in
    every layer writes into it in place. `filled` says which columns hold tokens of a row: rows may have holes,
    because attention is masked by `filled` and positions are explicit.

    Attributes:
        storage: The tensor; the second axis holds keys, then values.
        filled: `[B, columns]` bool.
        width: Columns in use; the next tokens are written behind them.
    """

    is_compileable = False

    def __init__(self, storage: Tensor, filled: Tensor, width: int) -> None:
        self.storage = storage
        self.filled = filled
        self.width = width
        self._keys = storage[:, 0].unbind(0)
        self._values = storage[:, 1].unbind(0)

    @classmethod
    def empty(cls, model: Any, *, num_rows: int, num_columns: int) -> "BatchCache":
        """A cache for a causal language model of transformers that holds nothing yet."""
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        weight = next(model.parameters())
        return cls(
            storage=weight.new_zeros(config.num_hidden_layers, 2, num_rows, heads, num_columns, size),
            filled=torch.zeros(num_rows, num_columns, dtype=torch.bool, device=weight.device),
            width=0,
        )

    @property
    def capacity(self) -> int:
        """Columns that are allocated."""
        return self.storage.shape[4]

    def rows(self, start: int, stop: int) -> "BatchCache":
        """A view of some rows."""
        return BatchCache(self.storage[:, :, start:stop], self.filled[start:stop], self.width)

    def gather(self, rows: Tensor, num_new_columns: int) -> "BatchCache":
        """A copy of the given rows, of the columns that any of them fills, with room for more columns."""
        filled = self.filled[rows, : self.width]
        columns = filled.any(0).nonzero().squeeze(1)
        width = columns.numel()
        layers, two, _, heads, _, size = self.storage.shape
        storage = self.storage.new_zeros(layers, two, rows.numel(), heads, width + num_new_columns, size)
        for target, source in zip(storage.flatten(0, 1), self.storage.flatten(0, 1), strict=True):
            target[:, :, :width] = source.index_select(0, rows).index_select(2, columns)
        return BatchCache(storage, torch.nn.functional.pad(filled[:, columns], (0, num_new_columns)), width)

    def sequence(self, row: int) -> Tensor:
        """A copy `[layers, 2, heads, tokens, head size]` of what one row holds, without holes."""
        columns = self.filled[row, : self.width].nonzero().squeeze(1)
        return self.storage[:, :, row].index_select(3, columns)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes one layer's new keys and values behind `width`; returns all of that layer's. Called by the model."""
        end = self.width + keys.shape[2]
        layer_keys, layer_values = self._keys[layer_idx][:, :, :end], self._values[layer_idx][:, :, :end]
        layer_keys[:, :, self.width :] = keys
        layer_values[:, :, self.width :] = values
        return layer_keys, layer_values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before the tokens of the forward pass under way. Called by the model."""
        return self.width

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Column of the first new token. Called by the model."""
        return self.width

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Number and offset of the columns that attention sees. Called by the model."""
        return self.width + query_length, 0


class PrefixStore:
    """Keys and values of finished turns, found again by the longest stored prefix of a new request.

    An entry is handed out once: the longer transcript that follows will be stored in its place. Beyond
    `max_bytes` the oldest entries go.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[int, tuple[tuple[int, ...], Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, token_ids: Sequence[int], keys_values: Tensor) -> None:
        """Stores what `BatchCache.sequence` gave for `token_ids`."""
        assert keys_values.shape[3] == len(token_ids), "keys and values do not belong to these tokens"
        key = _chain(token_ids)[-1]
        self._drop(key)
        self._entries[key] = (tuple(token_ids), keys_values)
        self._num_bytes += keys_values.nbytes
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def take(self, token_ids: Sequence[int]) -> Tensor | None:
        """Removes and returns the entry of the longest proper prefix of `token_ids`, if there is one."""
        for length, key in reversed(list(enumerate(_chain(token_ids[:-1]), start=1))):
            entry = self._entries.get(key)
            if entry is not None and entry[0] == tuple(token_ids[:length]):
                self._drop(key)
                return entry[1]
        return None

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self._num_bytes = 0

    def _drop(self, key: int) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._num_bytes -= entry[1].nbytes


def _chain(token_ids: Sequence[int]) -> list[int]:
    """A hash of every non-empty prefix, in one pass."""
    return list(accumulate(token_ids, lambda chained, token: hash((chained, token)), initial=0))[1:]
