"""Discounted returns over ragged turns."""

import torch
from torch import Tensor

from turnwise.core.segments import position_in_segment


def discounted_returns(turn_rewards_K: Tensor, trajectory_index_K: Tensor, discount: float) -> Tensor:
    """Return of every turn: the discounted sum of its own and its trajectory's later rewards.

    `R_j = sum_{m >= j} discount^(m - j) r_m` (GTPO, arXiv 2511.14846; docs/PAPER.md section 3, [R, 3]), by Horner's
    rule from the last turn back. The turn is the unit of time: nothing is discounted inside it.

    Args:
        turn_rewards_K: Rewards of the turns of all trajectories, end to end.
        trajectory_index_K: Trajectory of each turn, int64, non-decreasing; a trajectory's turns lie in order.
        discount: Factor per turn, usually in [0, 1].

    Returns:
        The returns, float64 `[K]`.

    Raises:
        ValueError: The tensors differ in shape, or the index decreases.
    """
    if turn_rewards_K.ndim != 1 or turn_rewards_K.shape != trajectory_index_K.shape:
        raise ValueError(
            f"turn_rewards_K of shape {tuple(turn_rewards_K.shape)} and trajectory_index_K of shape "
            f"{tuple(trajectory_index_K.shape)}: expected one shape, of rank 1"
        )
    rewards_K = turn_rewards_K.double()
    if not rewards_K.numel():
        return rewards_K
    turn_index_K = position_in_segment(trajectory_index_K)
    num_turns, num_trajectories = int(turn_index_K.max()) + 1, int(trajectory_index_K[-1]) + 1
    # One row a turn, one column a trajectory; short trajectories end in zeros, which add nothing.
    returns = torch.zeros(num_turns, num_trajectories, dtype=torch.float64, device=rewards_K.device)
    returns[turn_index_K, trajectory_index_K] = rewards_K
    for turn in range(num_turns - 2, -1, -1):
        returns[turn] += discount * returns[turn + 1]
    return returns[turn_index_K, trajectory_index_K]
