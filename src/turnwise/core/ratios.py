"""Importance ratios per token, turn or sequence, and the clipped surrogate."""

from enum import StrEnum

import torch
from torch import Tensor

from turnwise.core.segments import num_segments_of, segment_mean

MAX_LOG_RATIO = 20.0
"""Bound on |log ratio|: e^20 is far outside any clip range, and exp() of more overflows into NaN gradients."""


class RatioLevel(StrEnum):
    """The stretch of tokens that shares one importance ratio."""

    token = "token"
    turn = "turn"
    sequence = "sequence"


def bounded(log_ratio_N: Tensor) -> Tensor:
    """The log-ratios with their values held within `MAX_LOG_RATIO` of 0 and their gradients as they are."""
    value_N = log_ratio_N.detach()
    return value_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO) + (log_ratio_N - value_N)


def segments_at(level: RatioLevel, turn_N: Tensor, sequence_N: Tensor) -> Tensor:
    """The stretch that each loss token belongs to at `level`: itself, its turn or its sequence; int64 `[N]`."""
    match level:
        case RatioLevel.token:
            return torch.arange(turn_N.numel(), device=turn_N.device)
        case RatioLevel.turn:
            return turn_N
        case RatioLevel.sequence:
            return sequence_N


def importance_ratio(log_ratio_N: Tensor, turn_N: Tensor, sequence_N: Tensor, level: RatioLevel) -> Tensor:
    """Ratio `w = policy / proximal policy` of each loss token, at the level of tokens, turns or sequences.

    - token: `w_t = exp(l_t)` with `l_t = log policy(y_t) - log proximal(y_t)` (PPO, arXiv 1707.06347)
    - turn, sequence: the geometric mean over the segment's loss tokens, `w_t = exp(mean l)`: GSPO's ratio (arXiv
      2507.18071), over a turn by analogy

    The gradient of `w_t` is `w_t * grad l_t` at every level (GSPO-token, same paper), so that every token carries its
    own advantage. Where the tokens of a segment share one advantage this adds up to the gradient of the geometric mean;
    where they do not, as the turns of a sequence, that gradient would blend the advantages of the turns.

    Args:
        log_ratio_N: Log-ratio of each loss token.
        turn_N: Turn of each loss token, int64, distinct across sequences.
        sequence_N: Sequence of each loss token, int64.
        level: Which tokens share a ratio.

    Returns:
        The ratios, `[N]`, those beyond e^20 or below e^-20 held there.

    Raises:
        ValueError: The tensors differ in shape.
    """
    if not log_ratio_N.shape == turn_N.shape == sequence_N.shape:
        shapes = [tuple(t.shape) for t in (log_ratio_N, turn_N, sequence_N)]
        raise ValueError(f"log_ratio_N, turn_N, sequence_N: expected one shape, got {shapes}")
    value_N = log_ratio_N.detach()
    segment_N = segments_at(level, turn_N, sequence_N)
    mean_N = segment_mean(value_N, segment_N, num_segments_of(segment_N))[segment_N]
    slope_N = log_ratio_N - value_N  # 0, with the gradient of the log-ratio
    return (bounded(mean_N) + slope_N).exp()


def clipped_surrogate(
    ratio_N: Tensor, advantages_N: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """The surrogate to maximise, `min(w A, clip(w, 1 - clip_low, 1 + clip_high) A)` (PPO, arXiv 1707.06347).

    Args:
        ratio_N: Importance ratios.
        advantages_N: Advantages.
        clip_low: Width of the trust region below 1.
        clip_high: Width above 1.

    Returns:
        The surrogate `[N]`, and whether the clipped term is the smaller (such a token has no gradient), bool `[N]`.
    """
    plain_N = ratio_N * advantages_N
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantages_N
    return torch.minimum(plain_N, clipped_N), clipped_N < plain_N


def dual_clipped(surrogate_N: Tensor, advantages_N: Tensor, dual_clip: float) -> tuple[Tensor, Tensor]:
    """Keeps the surrogate of a negative advantage from falling without end: `max(surrogate, c A)` where `A < 0`.

    The dual clip of arXiv 1912.09729: `w A` with `A < 0` has no lower bound in w, so that one token which
    the policy has come to favour could outweigh a batch.

    Args:
        surrogate_N: What `clipped_surrogate` gave.
        advantages_N: Advantages.
        dual_clip: The bound c on the ratio, more than 1; infinity leaves everything as it is.

    Returns:
        The surrogate `[N]`, and whether the bound holds (such a token has no gradient), bool `[N]`.
    """
    floor_N = torch.where(advantages_N < 0, dual_clip * advantages_N, -torch.inf)
    return torch.maximum(surrogate_N, floor_N), floor_N > surrogate_N
