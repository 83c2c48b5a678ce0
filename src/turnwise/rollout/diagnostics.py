"""How a step's credit lies on its turns."""

from collections.abc import Mapping, Sequence
from math import isnan

import torch
from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.correlation import correlation
from turnwise.core.group_statistics import StdKind, normalise_in_groups
from turnwise.core.returns import discounted_returns
from turnwise.core.segments import num_segments_of, segment_mean, segment_sum
from turnwise.core.turn_index_bias import turn_index_bias
from turnwise.core.turns import Turns
from turnwise.protocols import PGK, AdvantageEstimator
from turnwise.types import ScoredGroup

SHAPING = "shaping"
"""The reward term that shaping adds."""
_ROUNDING = 1e-9
"""Advantages up to this size are rounding; one that means something has the size of a reward or of 1."""


def turn_returns(scored_groups: Sequence[ScoredGroup], discount: float) -> list[list[list[float]]]:
    """Return of every turn, `[P][G][K]`: `R_j = sum_{m >= j} discount^(m - j) r_m`; 0 in excluded trajectories."""
    turns = flatten(scored_groups)
    return unflatten(discounted_returns(turns.rewards_K, turns.trajectory_index_K, discount), scored_groups)


def diagnose(
    scored_groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, estimator: AdvantageEstimator
) -> dict[str, float]:
    """Figures of one step that show where its credit lies and what shaping did to it.

    All of them are over included trajectories; groups without one do not count, and a step without any has no figures.

    - `reward/turn_1`, `return/turn_1`, `advantage/turn_1`, ...: mean by turn, counted from 1; `rollout/reached_turn_1`,
      ...: share of the trajectories that have such a turn.
    - `reward/zero_variance_groups`: share of the groups whose trajectories have one and the same reward, summed over
      turns, give or take rounding; `reward/zero_variance_groups_unshaped`: that share without the shaping term.
    - `shaping/informed_groups`: share of the groups that have an advantage other than 0 but would have none unshaped.
    - `shaping/sign_flips`: share of the turns whose advantage has strictly the opposite sign of what the estimator
      gives without shaping; `shaping/turns_from_zero`: share of those whose advantage is 0 without it and not with it.
    - `advantage/turn_index_bias`: what going on would have cost under a baseline per turn index, at the discount of
      `estimator` (`turnwise.core.turn_index_bias`).
    - `advantage/turn_correlation`: Pearson's correlation of the advantage with the turn's place; 0 where one of the two
      does not vary.

    Args:
        scored_groups: The groups of the step.
        returns: Of every turn.
        advantages: Of every turn, what `estimator` gave.
        estimator: Runs once more when some turn has a shaping term that is not 0.
    """
    turns = flatten(scored_groups)
    if not turns.num_trajectories:
        return {}
    advantages_K = included(advantages, scored_groups)
    unshaped_turns, unshaped_K = turns, advantages_K
    if any(_is_shaped(scored) for scored in scored_groups):
        unshaped = [scored.without(SHAPING) for scored in scored_groups]
        unshaped_turns, unshaped_K = flatten(unshaped), included(estimator(unshaped), unshaped)
    rows = {"reward": turns.rewards_K, "return": included(returns, scored_groups), "advantage": advantages_K}
    signs_K, unshaped_signs_K = signs(advantages_K), signs(unshaped_K)
    place_correlation = correlation(advantages_K, turns.turn_index_K)
    is_informed_S = has_signal(advantages_K, turns) & ~has_signal(unshaped_K, turns)
    return {
        **_by_turn(rows, turns),
        "reward/zero_variance_groups": _share(_has_one_reward(turns)),
        "reward/zero_variance_groups_unshaped": _share(_has_one_reward(unshaped_turns)),
        "shaping/informed_groups": _share(is_informed_S),
        "shaping/sign_flips": _share(signs_K * unshaped_signs_K < 0),
        "shaping/turns_from_zero": _share((unshaped_signs_K == 0) & (signs_K != 0)),
        "advantage/turn_index_bias": turn_index_bias(turns, estimator.discount),
        "advantage/turn_correlation": 0.0 if isnan(place_correlation) else place_correlation,
    }


def included(values: PGK, scored_groups: Sequence[ScoredGroup]) -> Tensor:
    """The numbers of the turns of included trajectories, end to end: float64 `[K]`, in the order of `flatten`."""
    return torch.tensor(
        [
            value
            for scored, rows in zip(scored_groups, values, strict=True)
            for trajectory, row in zip(scored.group.trajectories, rows, strict=True)
            if not trajectory.is_excluded
            for value in row
        ],
        dtype=torch.float64,
    )


def signs(advantages_K: Tensor) -> Tensor:
    """-1, 0 or 1 for each advantage; what lies on its baseline but for rounding has no sign."""
    return torch.where(advantages_K.abs() > _ROUNDING, advantages_K.sign(), 0)


def has_signal(values_K: Tensor, turns: Turns) -> Tensor:
    """Which groups have a turn whose number is not 0; bool, one entry for each group with an included trajectory."""
    return _in_some(values_K != 0, turns.group_index_K)


def mean_by_turn(values_K: Tensor, turn_index_K: Tensor) -> dict[str, float]:
    """Mean by place in the trajectory, under the names `turn_1`, `turn_2`, ..."""
    means = segment_mean(values_K.double(), turn_index_K, num_segments_of(turn_index_K))
    return {f"turn_{number}": mean for number, mean in enumerate(means.tolist(), start=1)}


def _by_turn(rows: Mapping[str, Tensor], turns: Turns) -> dict[str, float]:
    figures = {
        f"{area}/{turn}": mean
        for area, values_K in rows.items()
        for turn, mean in mean_by_turn(values_K, turns.turn_index_K).items()
    }
    reached = torch.bincount(turns.turn_index_K).double() / turns.num_trajectories
    return figures | {f"rollout/reached_turn_{k}": share for k, share in enumerate(reached.tolist(), start=1)}


def _is_shaped(scored: ScoredGroup) -> bool:
    return SHAPING in scored.terms and any(value for row in scored.terms[SHAPING] for value in row)


def _has_one_reward(turns: Turns) -> Tensor:
    """Which groups have trajectories of one reward only: centred, all of them are 0."""
    centred_G = normalise_in_groups(
        turns.rewards_G, turns.group_index_G, std_kind=StdKind.population, eps=0.0, scale_by_std=False
    )
    return ~_in_some(centred_G != 0, turns.group_index_G)


def _in_some(is_true_N: Tensor, group_index_N: Tensor) -> Tensor:
    """For each group with an entry, in order, whether one of its entries is true."""
    group_N = torch.unique(group_index_N, return_inverse=True)[1]
    return segment_sum(is_true_N.double(), group_N, num_segments_of(group_N)) > 0


def _share(is_true_N: Tensor) -> float:
    return float(is_true_N.double().mean())
