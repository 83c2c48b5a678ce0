"""Discounted returns over ragged turns."""

import torch
from torch import Tensor

from turnwise.core.segments import num_segments_of, pair_index, position_in_segment, segment_mean


def discounted_returns(turn_rewards_K: Tensor, trajectory_index_K: Tensor, discount: float) -> Tensor:
    """Return of every turn: the discounted sum of its own and its trajectory's later rewards.

    `R_j = sum_{m >= j} discount^(m - j) r_m` (GTPO, arXiv 2511.14846; docs/PAPER.md section 3, [R, 3]), by Horner's
    rule from the last turn back. The turn is the unit of time: nothing is discounted inside it.

    Args:
        turn_rewards_K: Rewards of the turns of all trajectories, end to end.
        trajectory_index_K: Trajectory of each turn, int64, non-decreasing; a trajectory's turns lie in order.
        discount: Factor per turn, in [0, 1].

    Returns:
        The returns, float64 `[K]`.

    Raises:
        ValueError: The tensors differ in shape, the index decreases, or the discount is outside [0, 1].
    """
    if turn_rewards_K.ndim != 1 or turn_rewards_K.shape != trajectory_index_K.shape:
        raise ValueError(
            f"turn_rewards_K of shape {tuple(turn_rewards_K.shape)} and trajectory_index_K of shape "
            f"{tuple(trajectory_index_K.shape)}: expected one shape, of rank 1"
        )
    if not 0 <= discount <= 1:
        raise ValueError(f"discount={discount}: expected 0 to 1")
    returns_K = turn_rewards_K.double().clone()
    if not returns_K.numel():
        return returns_K
    turn_index_K = position_in_segment(trajectory_index_K)
    # All turns with the same place in their trajectory at once, from the last place back to the second.
    places = turn_index_K.argsort(stable=True).split(torch.bincount(turn_index_K).tolist())
    for places_of_turn in reversed(places[1:]):
        returns_K[places_of_turn - 1] += discount * returns_K[places_of_turn]
    return returns_K


def average_trajectory_returns(
    turn_rewards_K: Tensor, trajectory_index_K: Tensor, group_index_K: Tensor, discount: float
) -> Tensor:
    """What the group's average trajectory would return from as many turns before its end as each turn is.

    `b_d = sum_{e <= d} discount^(d - e) r_e`, `r_e` the mean reward of the group's turns that are followed by exactly e
    others: the average trajectory is aligned at the end, where outcomes are paid. With a reward on the last turns only,
    `b_d = discount^d` times the mean outcome. Our own [O].

    Args:
        turn_rewards_K: Rewards of the turns of all trajectories, end to end.
        trajectory_index_K: Trajectory of each turn, int64, non-decreasing; a trajectory's turns lie in order.
        group_index_K: Group of each turn, int64, non-decreasing.
        discount: Factor per turn, in [0, 1].

    Returns:
        One number for each turn, float64 `[K]`.

    Raises:
        ValueError: As in `discounted_returns`.
    """
    lengths_K = torch.bincount(trajectory_index_K)[trajectory_index_K]
    turns_left_K = lengths_K - 1 - position_in_segment(trajectory_index_K)
    slot_K = pair_index(group_index_K, turns_left_K)  # a group's slots are 0, 1, 2, ... turns before the end
    num_slots = num_segments_of(slot_K)
    mean_rewards_S = segment_mean(turn_rewards_K.double(), slot_K, num_slots)
    group_S = group_index_K.new_zeros(num_slots).index_copy(0, slot_K, group_index_K)
    # Read backwards the slots of a group are the turns of a trajectory, from the first to the last.
    backwards_S = num_segments_of(group_S) - 1 - group_S.flip(0)
    returns_S = discounted_returns(mean_rewards_S.flip(0), backwards_S, discount).flip(0)
    return returns_S[slot_K]
