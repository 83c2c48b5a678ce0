"""Correction of a gradient for tokens that were sampled by a policy which is not quite the one being trained.

An engine computes its log-probs with other kernels, and perhaps in another precision, than the trainer does, and it may
sample with weights that are some steps old. The ratio `rho = proximal policy / behaviour policy` says how far a token
is from one that the trainer would have sampled, and its use as a weight makes up for the difference.
"""

from enum import StrEnum

import torch
from torch import Tensor

from turnwise.core.ratios import MAX_LOG_RATIO, RatioLevel, segments_at
from turnwise.core.segments import num_segments_of, segment_mean, segment_sum


class Correction(StrEnum):
    """What the ratio of the proximal policy to the behaviour policy does to a token's part of the loss."""

    none = "none"
    truncate = "truncate"
    mask = "mask"
    geometric = "geometric"


def correction_weights(
    log_ratio_N: Tensor,
    turn_N: Tensor,
    sequence_N: Tensor,
    *,
    correction: Correction,
    level: RatioLevel,
    low: float,
    high: float,
) -> Tensor:
    """Weight of each loss token from `rho`, the ratio of its stretch: the product of the ratios of the tokens in it.

    - none: 1
    - truncate: `min(rho, high)`, truncated importance sampling
    - mask: `rho` where `low <= rho <= high`, else 0 (IcePop at token level, arXiv 2510.18855)
    - geometric: 1 where the geometric mean of the stretch's ratios lies in `[low, high]`, else 0: a rejection of
      stretches that the trainer finds improbable throughout, whatever their length

    A product drifts from 1 with the length of its stretch, a geometric mean does not: bounds that suit the one do not
    suit the other. There are no weights above 1 in the last case, and no bias from a truncation; the price is the
    tokens that are lost.

    Args:
        log_ratio_N: `log proximal - log behaviour` of each loss token.
        turn_N: Turn of each loss token, int64, distinct across sequences.
        sequence_N: Sequence of each loss token, int64.
        correction: Which of the four.
        level: The stretch whose tokens share a weight: a token, a turn or a sequence.
        low: Lower bound; not read by `truncate`.
        high: Upper bound.

    Returns:
        The weights, float64 `[N]`, without gradient. Ratios beyond e^20 or below e^-20 are held there.

    Raises:
        ValueError: The tensors differ in shape.
    """
    if not log_ratio_N.shape == turn_N.shape == sequence_N.shape:
        shapes = [tuple(t.shape) for t in (log_ratio_N, turn_N, sequence_N)]
        raise ValueError(f"log_ratio_N, turn_N, sequence_N: expected one shape, got {shapes}")
    log_ratio_N = log_ratio_N.detach().double()
    segment_N = segments_at(level, turn_N, sequence_N)
    combine = segment_mean if correction == Correction.geometric else segment_sum
    combined_S = combine(log_ratio_N, segment_N, num_segments_of(segment_N))
    ratio_N = combined_S.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()[segment_N]
    is_inside_N = (ratio_N >= low) & (ratio_N <= high)
    match correction:
        case Correction.none:
            return torch.ones_like(ratio_N)
        case Correction.truncate:
            return ratio_N.clamp(max=high)
        case Correction.mask:
            return torch.where(is_inside_N, ratio_N, 0)
        case Correction.geometric:
            return is_inside_N.double()
