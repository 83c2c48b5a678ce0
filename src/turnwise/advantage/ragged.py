"""Between the ragged groups of a step and flat tensors over their turns.

Here K runs over the turns of all included trajectories of the step, end to end, and G over those trajectories.
"""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from turnwise.core.segments import position_in_segment
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup, Trajectory


def flatten(scored_groups: Sequence[ScoredGroup]) -> Turns:
    """Lays the turns of the included trajectories of all groups end to end."""
    rows: list[tuple[float, ...]] = []
    outcomes: list[float] = []
    num_tokens: list[int] = []
    group_sizes: list[int] = []
    for scored in scored_groups:
        outcome_G, num_before = scored.outcome_G, len(rows)
        for g, trajectory in enumerate(scored.group.trajectories):
            if not trajectory.is_excluded:
                rows.append(scored.turn_rewards_GK[g])
                outcomes.append(outcome_G[g])
                num_tokens += [len(turn.behaviour_logprobs) for turn in trajectory.turns]
        group_sizes.append(len(rows) - num_before)
    lengths_G = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    trajectory_index_K = torch.arange(len(rows)).repeat_interleave(lengths_G)
    sizes_P = torch.tensor(group_sizes, dtype=torch.int64)
    has_equal_outcomes_P = torch.tensor([scored.has_equal_outcomes for scored in scored_groups], dtype=torch.bool)
    return Turns(
        rewards_K=torch.tensor(list(chain.from_iterable(rows)), dtype=torch.float64),
        outcomes_G=torch.tensor(outcomes, dtype=torch.float64),
        num_tokens_K=torch.tensor(num_tokens, dtype=torch.int64),
        turn_index_K=position_in_segment(trajectory_index_K),
        trajectory_index_K=trajectory_index_K,
        group_index_G=torch.arange(len(group_sizes)).repeat_interleave(sizes_P),
        has_equal_outcomes_G=has_equal_outcomes_P.repeat_interleave(sizes_P),
    )


def unflatten(values_K: Tensor, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
    """Puts one number per included turn back into `[P][G][K]`; the turns of excluded trajectories get 0."""
    values: list[float] = values_K.tolist()
    end = 0

    def row(trajectory: Trajectory) -> list[float]:
        nonlocal end
        if trajectory.is_excluded:
            return [0.0] * len(trajectory.turns)
        start, end = end, end + len(trajectory.turns)
        return values[start:end]

    return [[row(trajectory) for trajectory in scored.group.trajectories] for scored in scored_groups]
