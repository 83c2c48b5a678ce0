"""Between the ragged groups of a step and flat tensors over their turns.

In this package G runs over the included trajectories of all groups of the step, and K over all their turns, end to end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class RaggedTurns:
    """The turns of a step without those of excluded trajectories.

    Attributes:
        turn_rewards_K: Reward of each turn, float64.
        turn_index_K: Place of each turn in its trajectory, from 0.
        trajectory_index_K: Trajectory of each turn, in `[0, G)`, non-decreasing.
        group_index_G: Group of each trajectory.
        has_equal_outcomes_G: Whether the trajectories of its group are all correct or all wrong.
    """

    turn_rewards_K: Tensor
    turn_index_K: Tensor
    trajectory_index_K: Tensor
    group_index_G: Tensor
    has_equal_outcomes_G: Tensor


def flatten(scored_groups: Sequence[ScoredGroup]) -> RaggedTurns:
    """Lays the included trajectories of all groups end to end."""
    rows: list[tuple[float, ...]] = []
    group_index: list[int] = []
    has_equal_outcomes: list[bool] = []
    for p, scored in enumerate(scored_groups):
        included = [g for g, trajectory in enumerate(scored.group.trajectories) if not trajectory.is_excluded]
        rows += [scored.turn_rewards_GK[g] for g in included]
        group_index += [p] * len(included)
        has_equal_outcomes += [len({scored.correct_G[g] for g in included}) == 1] * len(included)
    return RaggedTurns(
        turn_rewards_K=torch.tensor([reward for row in rows for reward in row], dtype=torch.float64),
        turn_index_K=torch.tensor([k for row in rows for k in range(len(row))], dtype=torch.int64),
        trajectory_index_K=torch.tensor([g for g, row in enumerate(rows) for _ in row], dtype=torch.int64),
        group_index_G=torch.tensor(group_index, dtype=torch.int64),
        has_equal_outcomes_G=torch.tensor(has_equal_outcomes, dtype=torch.bool),
    )


def unflatten(values_K: Tensor, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
    """Puts one number per included turn back into `[P][G][K]`; the turns of excluded trajectories get 0."""
    values: Iterator[float] = iter(values_K.tolist())
    return [
        [
            [0.0] * len(trajectory.turns) if trajectory.is_excluded else list(islice(values, len(trajectory.turns)))
            for trajectory in scored.group.trajectories
        ]
        for scored in scored_groups
    ]
