"""Packed sequences as trees: what several of them begin with is held, and computed, once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from turnwise.types import TokenBatch


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of consecutive tokens. Each attends to its segment's tokens up to itself, and to all of the prefix."""

    length: int
    prefix: int | None
    """Index in `PrefixTree.segments` of the segment that this one continues; None for one that begins a sequence."""


@dataclass(frozen=True, kw_only=True)
class PrefixTree:
    """The tokens of a batch's sequences, end to end, without the repetitions of prompts that sequences share.

    A forward pass over the M tokens of the tree gives every sequence the hidden states that it would have alone.

    Attributes:
        token_ids_M: Tokens, segment after segment.
        position_ids_M: Position of each token in its sequence.
        predictors_L: For each loss token of the batch, in order, the place in the tree of the token before it.
        segments: What attends to what.
    """

    token_ids_M: Tensor
    position_ids_M: Tensor
    predictors_L: Tensor
    segments: tuple[Segment, ...]

    @cached_property
    def starts(self) -> list[int]:
        """Place of each segment's first token."""
        return list(accumulate((segment.length for segment in self.segments), initial=0))[:-1]

    @cached_property
    def key_lengths(self) -> list[int]:
        """Tokens that a segment's last token attends to."""
        prefixes = [0 if one.prefix is None else self.segments[one.prefix].length for one in self.segments]
        return [one.length + prefix for one, prefix in zip(self.segments, prefixes, strict=True)]

    @cached_property
    def key_places(self) -> Tensor | None:
        """Places of the tokens that segment after segment attends to, its prefix first; int64. None: as they lie."""
        if all(segment.prefix is None for segment in self.segments):
            return None
        ranges = []
        for start, segment in zip(self.starts, self.segments, strict=True):
            if segment.prefix is not None:
                first = self.starts[segment.prefix]
                ranges.append(torch.arange(first, first + self.segments[segment.prefix].length))
            ranges.append(torch.arange(start, start + segment.length))
        return torch.cat(ranges).to(self.token_ids_M.device)

    @cached_property
    def query_edges(self) -> Tensor:
        """Where each segment begins among the tokens, and the end of the last; int32, as flash-attention takes it."""
        return self._edges([segment.length for segment in self.segments])

    @cached_property
    def key_edges(self) -> Tensor:
        """As `query_edges`, among `key_places`."""
        return self._edges(self.key_lengths)

    def _edges(self, lengths: list[int]) -> Tensor:
        """Made once for all layers: a tensor made from a list waits for all that a GPU was given before."""
        edges = list(accumulate(lengths, initial=0))
        return torch.tensor(edges, dtype=torch.int32, device=self.token_ids_M.device)

    @cached_property
    def masks(self) -> list[Tensor | None]:
        """Which keys each query of a segment sees, bool `[queries, keys]`; None stands for a plain causal mask."""
        device = self.token_ids_M.device
        return [
            None
            if segment.prefix is None
            else torch.ones(segment.length, keys, dtype=torch.bool, device=device).tril(keys - segment.length)
            for segment, keys in zip(self.segments, self.key_lengths, strict=True)
        ]


def plant(batch: TokenBatch) -> PrefixTree:
    """The tree of the sequences with a loss token; those whose tokens before the first of these are equal share them.

    A batch without a sequence gives a tree of one token from which nothing is predicted: a rank that has nothing left
    to score goes through the model with it, since the others wait for its part of the weights.

    Raises:
        ValueError: A sequence begins with a loss token, which nothing predicts.
    """
    if batch.num_sequences == 0:
        return _seed(batch.token_ids.device)
    edges = batch.cu_seqlens.tolist()
    prompts = prompt_lengths(batch)
    token_ids = batch.token_ids.tolist()
    segments: list[Segment] = []
    places: list[range] = []  # of each segment's tokens in the batch
    predictors = torch.zeros(edges[-1], dtype=torch.int64)
    size = 0

    def grow(start: int, end: int, prefix: int | None) -> int:
        nonlocal size
        segments.append(Segment(length=end - start, prefix=prefix))
        places.append(range(start, end))
        predictors[start + 1 : end] = torch.arange(size, size + end - start - 1)
        size += end - start
        return size - 1

    for family in families(batch, trained_sequences(batch), prompts):
        begin, length = edges[family[0]], prompts[family[0]]
        if len(family) == 1:
            grow(begin, edges[family[0] + 1], None)
            continue
        trunk, end_of_prompt = len(segments), grow(begin, begin + length, None)
        for sequence in family:
            start = edges[sequence] + length
            grow(start, edges[sequence + 1], trunk)
            predictors[start] = end_of_prompt
    index = torch.tensor([place for stretch in places for place in stretch], dtype=torch.int64)
    device = batch.token_ids.device
    return PrefixTree(
        token_ids_M=torch.tensor([token_ids[place] for place in index.tolist()], device=device),
        position_ids_M=batch.position_ids[index.to(device)],
        predictors_L=predictors.to(device)[batch.loss_mask],
        segments=tuple(segments),
    )


def _seed(device: torch.device) -> PrefixTree:
    """A tree of a single token."""
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    return PrefixTree(
        token_ids_M=zero, position_ids_M=zero, predictors_L=zero[:0], segments=(Segment(length=1, prefix=None),)
    )


def trained_sequences(batch: TokenBatch) -> list[int]:
    """The sequences that have a loss token."""
    return batch.sequence_index[batch.loss_mask].unique().tolist()


def prompt_lengths(batch: TokenBatch) -> list[int]:
    """Tokens of each sequence before its first loss token; all of them where there is none.

    Raises:
        ValueError: A sequence begins with a loss token.
    """
    edges = batch.cu_seqlens.tolist()
    lengths = [end - start for start, end in pairwise(edges)]
    places = batch.loss_mask.nonzero().squeeze(1).tolist()
    for place, sequence in reversed(list(zip(places, batch.sequence_index[batch.loss_mask].tolist(), strict=True))):
        lengths[sequence] = place - edges[sequence]
    if 0 in lengths:
        raise ValueError("a sequence begins with a loss token: nothing before it predicts it")
    return lengths


def families(batch: TokenBatch, sequences: Sequence[int], prompts: Sequence[int]) -> list[list[int]]:
    """The given sequences by their prompts: those that share one, in order of their first member."""
    edges = batch.cu_seqlens.tolist()
    token_ids = batch.token_ids.tolist()
    found: dict[tuple[int, ...], list[int]] = {}
    for sequence in sequences:
        prompt = tuple(token_ids[edges[sequence] : edges[sequence] + prompts[sequence]])
        found.setdefault(prompt, []).append(sequence)
    return list(found.values())


def deal(batch: TokenBatch, num_ranks: int) -> list[list[int]]:
    """Shares the sequences with a loss token out over ranks, so that each computes about as many tokens.

    Families stay together, unless one holds more than a rank's fair share; the largest are dealt first, each to the
    rank with the fewest tokens.

    Returns:
        The sequences of each rank, in ascending order.
    """
    trained = trained_sequences(batch)
    if num_ranks == 1:
        return [trained]
    prompts, lengths = prompt_lengths(batch), batch.cu_seqlens.diff().tolist()

    def size(piece: list[int]) -> int:
        prompt = prompts[piece[0]]
        return prompt + sum(lengths[sequence] - prompt for sequence in piece)

    fair = sum(map(size, found := families(batch, trained, prompts))) / num_ranks
    pieces = []
    for family in found:
        num_pieces = min(len(family), math.ceil(size(family) / fair))
        edges = [place * len(family) // num_pieces for place in range(num_pieces + 1)]
        pieces += [family[start:end] for start, end in pairwise(edges)]
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for piece in sorted(pieces, key=size, reverse=True):
        rank = loads.index(min(loads))
        shares[rank] += piece
        loads[rank] += size(piece)
    return [sorted(share) for share in shares]


def micro_batches(batch: TokenBatch, token_budget: int, sequences: Sequence[int] | None = None) -> list[list[int]]:
    """Cuts a batch into lists of sequences whose trees have at most `token_budget` tokens.

    A family that does not fit into what is left of a tree begins another, since every tree that holds a part of it
    computes its prompt once more. So no fewer tokens can be computed in this order, but the trees may be more and
    smaller.

    Args:
        batch: The whole step.
        token_budget: Tokens of a tree; a single sequence may exceed it and then stands alone.
        sequences: Those to cut, each with a loss token; None: all that have one.

    Returns:
        Sequence indices, families together; those without a loss token appear nowhere, for they have no gradient.
    """
    prompts = prompt_lengths(batch)
    lengths = batch.cu_seqlens.diff().tolist()
    parts: list[list[int]] = []
    size = 0
    for family in families(batch, trained_sequences(batch) if sequences is None else sequences, prompts):
        prompt = prompts[family[0]]
        whole = prompt + sum(lengths[sequence] - prompt for sequence in family)
        if not parts or size + whole > token_budget:
            parts.append([])
            size = 0
        is_planted = False
        for sequence in family:
            cost = lengths[sequence] - (prompt if is_planted else 0)
            if parts[-1] and size + cost > token_budget:
                parts.append([])
                size, cost = 0, lengths[sequence]
            parts[-1].append(sequence)
            size += cost
            is_planted = True
    return parts
