"""The hidden price of taking another turn that a baseline per turn index puts on the policy."""

import torch

from turnwise.core.returns import discounted_returns
from turnwise.core.segments import num_segments_of, pair_index, segment_mean
from turnwise.core.turns import Turns


def turn_index_bias(turns: Turns, discount: float) -> float:
    """Mean price of going on, had rewards been centred per turn index and then summed over later turns.

    Let `b_l` be the mean reward of the group at turn index l. The advantage `sum_{l >= k} discount^(l - k) (r_l - b_l)`
    of turn k subtracts one `b_l` for each turn that the trajectory takes, so its baseline depends on the action of
    turn k, which decides whether there is another turn: whatever it earns, turn k pays

        bias_k = -sum_{l > k} discount^(l - k) b_l

    for going on, where a trajectory that stops pays nothing. Ours [O]; no estimator of turnwise is told of it.

    Args:
        turns: The turns of a step.
        discount: Factor per turn, in [0, 1].

    Returns:
        The mean of `bias_k` over the turns that are followed by others, in units of reward; 0 when there are none.
    """
    place_K = pair_index(turns.group_index_K, turns.turn_index_K)
    baseline_K = segment_mean(turns.rewards_K, place_K, num_segments_of(place_K))[place_K]
    later_K = discounted_returns(baseline_K, turns.trajectory_index_K, discount) - baseline_K
    is_followed_K = torch.zeros_like(later_K, dtype=torch.bool)
    is_followed_K[:-1] = turns.trajectory_index_K.diff() == 0
    return -float(later_K[is_followed_K].mean()) if bool(is_followed_K.any()) else 0.0
