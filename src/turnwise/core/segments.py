"""Sums, means and indices over segments of a flat tensor, and the weights with which a loss averages its tokens.

A segment is a set of entries with the same index: the tokens of a turn, the turns of a trajectory.
"""

from enum import StrEnum

import torch
from torch import Tensor


class Reduction(StrEnum):
    """What the loss averages over: every token, turn or sequence alike, or sequences of one nominal length."""

    token = "token"
    turn = "turn"
    sequence = "sequence"
    constant = "constant"


def segment_sum(values_N: Tensor, segment_N: Tensor, num_segments: int) -> Tensor:
    """Sums the entries of each segment.

    Args:
        values_N: Numbers, any floating type; gradients pass through.
        segment_N: Segment of each entry, int64 in `[0, num_segments)`, in any order.
        num_segments: Length of the result.

    Returns:
        One sum per segment, `[num_segments]`; 0 for a segment without entries.

    Raises:
        ValueError: The two tensors differ in shape or are not of rank 1.
    """
    if values_N.ndim != 1 or values_N.shape != segment_N.shape:
        raise ValueError(
            f"values_N of shape {tuple(values_N.shape)} and segment_N of shape {tuple(segment_N.shape)}: "
            "expected one shape, of rank 1"
        )
    return values_N.new_zeros(num_segments).index_add(0, segment_N, values_N)


def segment_mean(values_N: Tensor, segment_N: Tensor, num_segments: int) -> Tensor:
    """Averages the entries of each segment; arguments and errors as in `segment_sum`.

    Returns:
        One mean per segment, `[num_segments]`; 0 for a segment without entries.
    """
    sizes = segment_sum(torch.ones_like(values_N), segment_N, num_segments)
    return segment_sum(values_N, segment_N, num_segments) / sizes.clamp(min=1)


def num_segments_of(segment_N: Tensor) -> int:
    """One more than the largest index; 0 for an empty tensor."""
    return int(segment_N.max()) + 1 if segment_N.numel() else 0


def pair_index(first_N: Tensor, second_N: Tensor) -> Tensor:
    """Numbers the distinct pairs `(first, second)` from 0, in lexicographic order.

    Args:
        first_N: int64, non-negative.
        second_N: int64, non-negative, same shape.

    Returns:
        The number of each entry's pair, int64 `[N]`.
    """
    keys_N = first_N * num_segments_of(second_N) + second_N
    return torch.unique(keys_N, return_inverse=True)[1]


def position_in_segment(segment_N: Tensor) -> Tensor:
    """Counts the entries of each segment from 0.

    Args:
        segment_N: int64, non-negative and non-decreasing, so that the entries of a segment lie together.

    Returns:
        The place of each entry within its segment, int64 `[N]`.

    Raises:
        ValueError: The index decreases somewhere.
    """
    if bool((segment_N[1:] < segment_N[:-1]).any()):
        raise ValueError(f"segment_N must not decrease, got {segment_N.tolist()}")
    sizes = torch.bincount(segment_N)
    starts = sizes.cumsum(0) - sizes
    return torch.arange(segment_N.numel(), device=segment_N.device) - starts[segment_N]


def reduction_weights(
    turn_N: Tensor,
    sequence_N: Tensor,
    *,
    reduction: Reduction,
    num_tokens: int,
    num_turns: int,
    num_sequences: int,
    constant_length: int,
) -> Tensor:
    """Weight of each loss token in the loss of the whole step.

    - token: `1 / num_tokens`
    - turn: `1 / (num_turns * tokens of its turn)`
    - sequence: `1 / (num_sequences * tokens of its sequence)`
    - constant: `1 / (num_sequences * constant_length)` (Dr.GRPO, arXiv 2503.20783)

    The weights of all tokens of a step add up to 1, except those of `constant`. The counts are the whole step's, so a
    part made of whole sequences gets the weights that its tokens have in the whole.

    Args:
        turn_N: Turn of each loss token, int64, distinct across sequences.
        sequence_N: Sequence of each loss token, int64.
        reduction: What counts alike.
        num_tokens: Loss tokens of the step.
        num_turns: Turns of the step with at least one loss token.
        num_sequences: Sequences of the step with at least one loss token.
        constant_length: Tokens of a nominal sequence; read by `constant` only.

    Returns:
        float64 `[N]`.
    """
    match reduction:
        case Reduction.token:
            size_N, num_segments = torch.ones_like(turn_N), num_tokens
        case Reduction.turn:
            size_N, num_segments = _own_segment_size(turn_N), num_turns
        case Reduction.sequence:
            size_N, num_segments = _own_segment_size(sequence_N), num_sequences
        case Reduction.constant:
            size_N, num_segments = torch.full_like(turn_N, constant_length), num_sequences
    return 1 / (size_N * max(num_segments, 1)).double()


def _own_segment_size(segment_N: Tensor) -> Tensor:
    return torch.bincount(segment_N)[segment_N]
