"""Between the ragged groups of a step and flat tensors over their turns.

Here K runs over the turns of all included trajectories of the step, end to end, and G over those trajectories.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


def flatten(scored_groups: Sequence[ScoredGroup]) -> Turns:
    """Lays the turns of the included trajectories of all groups end to end."""
    rows: list[tuple[float, ...]] = []
    outcomes: list[float] = []
    num_tokens: list[int] = []
    group_index: list[int] = []
    has_equal_outcomes: list[bool] = []
    for p, scored in enumerate(scored_groups):
        outcome_G = scored.outcome_G
        included = [g for g, trajectory in enumerate(scored.group.trajectories) if not trajectory.is_excluded]
        for g in included:
            rows.append(scored.turn_rewards_GK[g])
            outcomes.append(outcome_G[g])
            num_tokens += [turn.span[1] - turn.span[0] for turn in scored.group.trajectories[g].turns]
        group_index += [p] * len(included)
        has_equal_outcomes += [scored.has_equal_outcomes] * len(included)
    return Turns(
        rewards_K=torch.tensor([reward for row in rows for reward in row], dtype=torch.float64),
        outcomes_G=torch.tensor(outcomes, dtype=torch.float64),
        num_tokens_K=torch.tensor(num_tokens, dtype=torch.int64),
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
