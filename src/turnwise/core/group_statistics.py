"""Statistics of returns over a pool, and the advantages that they give.

Every estimator that subtracts a mean and divides by a standard deviation calls `normalise`: GRPO is the case of one
number per trajectory, GTPO that of one number per turn, so the two cannot drift apart.
"""

from enum import StrEnum

import torch
from torch import Tensor

from turnwise.core.segments import num_segments_of, pair_index, segment_sum

_ROUNDING = 1e-12
"""Spread, relative to `1 + |mean|`, below which members of a pool differ by rounding only."""


class StdKind(StrEnum):
    """Divisor of the variance: the number of members (population), or one less (sample)."""

    population = "population"
    sample = "sample"


class Pool(StrEnum):
    """Which returns a turn's return is compared with."""

    group = "group"
    batch = "batch"
    turn_index = "turn_index"
    first_turn = "first_turn"


def assign_pools(pool: Pool, group_index_K: Tensor, turn_index_K: Tensor) -> tuple[Tensor, Tensor]:
    """Pool of every turn, and whether the turn itself enters that pool's statistics.

    The pools S of docs/PAPER.md section 4 (GTPO, arXiv 2511.14846; the sources disagree):

    - group: all turns of all trajectories of the turn's group [3]
    - batch: all turns of the step [3]
    - turn_index: the turns of the group with the same place in their trajectory (arXiv 2604.02869)
    - first_turn: the first turns of the group; later turns are measured against them without entering [3]

    Args:
        pool: Which of the four.
        group_index_K: Group of each turn, int64.
        turn_index_K: Place of each turn in its trajectory, int64 from 0.

    Returns:
        `pool_K` (int64) and `is_member_K` (bool).
    """
    everyone_K = torch.ones_like(group_index_K, dtype=torch.bool)
    match pool:
        case Pool.group:
            return group_index_K, everyone_K
        case Pool.batch:
            return torch.zeros_like(group_index_K), everyone_K
        case Pool.turn_index:
            return pair_index(group_index_K, turn_index_K), everyone_K
        case Pool.first_turn:
            return group_index_K, turn_index_K == 0


def pool_mean_std(values_K: Tensor, pool_K: Tensor, weights_K: Tensor, std_kind: StdKind) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation of each pool.

    `mean = sum w x / sum w`, `std^2 = sum w (x - mean)^2 / d` with `d = sum w` (population) or
    `d = sum w - sum w^2 / sum w` (sample; `n - 1` for n members of equal weight 1).

    Args:
        values_K: float64.
        pool_K: Pool of each value, int64.
        weights_K: Non-negative, float64; 0 keeps a value out of the statistics.
        std_kind: Divisor of the variance.

    Returns:
        `mean_S` and `std_S`, float64, one entry per pool index up to the largest; 0 where a pool holds no weight, and a
        standard deviation of 0 where it holds one member.
    """
    num_pools = num_segments_of(pool_K)
    total_S = segment_sum(weights_K, pool_K, num_pools)
    mean_S = _ratio_or_zero(segment_sum(weights_K * values_K, pool_K, num_pools), total_S)
    squares_S = segment_sum(weights_K * (values_K - mean_S[pool_K]).square(), pool_K, num_pools)
    divisor_S = total_S
    if std_kind == StdKind.sample:
        divisor_S = total_S - _ratio_or_zero(segment_sum(weights_K.square(), pool_K, num_pools), total_S)
    return mean_S, _ratio_or_zero(squares_S, divisor_S).sqrt()


def share_weights(weights_K: Tensor, pool_K: Tensor, trajectory_index_K: Tensor) -> Tensor:
    """Lets each trajectory count once in a pool: its members there share one unit of weight.

    Args:
        weights_K: Non-negative, float64; 0 keeps a value out of the statistics.
        pool_K: Pool of each value, int64.
        trajectory_index_K: Trajectory of each value, int64.

    Returns:
        float64 `[K]`; the weights of a trajectory in a pool add up to 1, or to 0 where they were all 0.
    """
    share_K = pair_index(pool_K, trajectory_index_K)
    return _ratio_or_zero(weights_K, segment_sum(weights_K, share_K, num_segments_of(share_K))[share_K])


def normalise(
    values_K: Tensor,
    pool_K: Tensor,
    trajectory_index_K: Tensor,
    weights_K: Tensor,
    *,
    std_kind: StdKind,
    eps: float,
    scale_by_std: bool,
    leave_one_out: bool = False,
) -> Tensor:
    """Advantage of each value against its pool: `(R - mean(S)) / (std(S) + eps)`.

    GTPO (arXiv 2511.14846; docs/PAPER.md section 4, [A, R, 3]) and GRPO (arXiv 2402.03300). A pool says nothing if its
    members do not differ, or come from fewer than two trajectories: what one trajectory earned at its several turns is
    no comparison with siblings. All values that are measured against such a pool get 0 [O].

    Args:
        values_K: Returns, any floating type; must be finite.
        pool_K: Pool of each value, int64.
        trajectory_index_K: Trajectory of each value, int64, non-negative.
        weights_K: Weight of each value in its pool's statistics, 0 to keep it out, any type.
        std_kind: Divisor of the variance.
        eps: Added to the standard deviation.
        scale_by_std: Divide by `std + eps`; without it the advantage is the centred value (Dr.GRPO, arXiv 2503.20783).
        leave_one_out: Take the mean over the other trajectories of the pool (RLOO, arXiv 2402.14740); the standard
            deviation stays that of the whole pool.

    Returns:
        The advantages, float64 `[K]`.

    Raises:
        ValueError: The tensors differ in shape, or a value is NaN or infinite.
    """
    shapes = [tuple(t.shape) for t in (values_K, pool_K, trajectory_index_K, weights_K)]
    if values_K.ndim != 1 or len(set(shapes)) > 1:
        raise ValueError(f"values_K, pool_K, trajectory_index_K, weights_K: expected one shape, got {shapes}")
    if not bool(torch.isfinite(values_K).all()):
        raise ValueError(
            f"values_K holds NaN or infinity at {(~torch.isfinite(values_K)).nonzero().flatten().tolist()}"
        )
    values_K, weights_K = values_K.double(), weights_K.double()
    mean_S, std_S = pool_mean_std(values_K, pool_K, weights_K, std_kind)
    advantages_K = values_K - mean_S[pool_K]
    if leave_one_out:
        # The centred values of a pool sum to 0, so those of the others sum to minus the trajectory's own.
        share_K = pair_index(pool_K, trajectory_index_K)  # a trajectory's part of a pool
        num_shares = num_segments_of(share_K)
        total_S = segment_sum(weights_K, pool_K, num_segments_of(pool_K))
        others_K = total_S[pool_K] - segment_sum(weights_K, share_K, num_shares)[share_K]
        own_K = segment_sum(weights_K * advantages_K, share_K, num_shares)[share_K]
        advantages_K = advantages_K + own_K / others_K
    if scale_by_std:
        advantages_K = advantages_K / (std_S + eps)[pool_K]
    has_spread_S = std_S > _ROUNDING * (1 + mean_S.abs())
    says_something_S = has_spread_S & _has_siblings(pool_K, trajectory_index_K, weights_K > 0)
    return torch.where(says_something_S[pool_K], advantages_K, 0)


def over_root_mean_square(
    values_K: Tensor, differences_K: Tensor, pool_K: Tensor, weights_K: Tensor, eps: float
) -> Tensor:
    """Differences from a baseline that is not the pool's mean, in units of their own size in the pool.

    `d / (sqrt(sum w d^2 / sum w) + eps)`; 0 in a pool whose differences are all 0 but for rounding.

    Args:
        values_K: What the differences were taken of; says what rounding amounts to.
        differences_K: float64.
        pool_K: Pool of each value, int64.
        weights_K: Non-negative, float64.
        eps: Added to the root mean square.

    Returns:
        float64 `[K]`.
    """
    mean_size_S, _ = pool_mean_std(values_K.abs(), pool_K, weights_K, StdKind.population)
    spread_S = pool_mean_std(differences_K.square(), pool_K, weights_K, StdKind.population)[0].sqrt()
    has_spread_S = spread_S > _ROUNDING * (1 + mean_size_S)
    return torch.where(has_spread_S[pool_K], differences_K / (spread_S + eps)[pool_K], 0)


def normalise_in_groups(
    values_G: Tensor,
    group_index_G: Tensor,
    *,
    std_kind: StdKind,
    eps: float,
    scale_by_std: bool,
    leave_one_out: bool = False,
) -> Tensor:
    """Advantage of each trajectory against its group: `normalise` with one number per trajectory, as in GRPO.

    Args:
        values_G: One number per trajectory, any floating type; must be finite.
        group_index_G: Group of each trajectory, int64.
        std_kind: As in `normalise`, like the fields below.
        eps: Added to the standard deviation.
        scale_by_std: Divide by `std + eps`.
        leave_one_out: Take the mean over the others of the group.

    Returns:
        The advantages, float64 `[G]`; 0 in a group of one.

    Raises:
        ValueError: The tensors differ in shape, or a value is NaN or infinite.
    """
    return normalise(
        values_G,
        group_index_G,
        torch.arange(values_G.numel(), device=values_G.device),
        torch.ones_like(values_G),
        std_kind=std_kind,
        eps=eps,
        scale_by_std=scale_by_std,
        leave_one_out=leave_one_out,
    )


def _has_siblings(pool_K: Tensor, trajectory_index_K: Tensor, is_member_K: Tensor) -> Tensor:
    """Whether the members of each pool come from two trajectories or more: their lowest index is not the highest."""
    pool_of_member, trajectory_of_member = pool_K[is_member_K], trajectory_index_K[is_member_K]
    unset_S = pool_K.new_zeros(num_segments_of(pool_K))
    lowest_S = unset_S.scatter_reduce(0, pool_of_member, trajectory_of_member, "amin", include_self=False)
    highest_S = unset_S.scatter_reduce(0, pool_of_member, trajectory_of_member, "amax", include_self=False)
    return lowest_S < highest_S


def _ratio_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, 0)
