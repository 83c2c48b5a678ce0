"""The advantage of REINFORCE++: each trajectory's reward, whitened over the whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.group_statistics import StdKind, normalise, normalise_in_groups
from turnwise.core.ranges import check_scaling
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class ReinforcePPAdvantage:
    """REINFORCE++ and REINFORCE++-baseline (arXiv 2501.03262).

    `A_i = (r_i - mean(r)) / (std(r) + eps)` over all trajectories of the step, repeated for each turn of trajectory i;
    r_i is the sum of its turn rewards, not discounted. With `group_baseline` the mean of its group is first taken from
    each r_i. The penalty for leaving the reference policy, which the paper puts into the reward, is the loss's
    `kl_weight` here.

    With `group_baseline`, a group of one and a group of equal rewards enter the batch as zeros [O]; like every other
    number they are then measured against the mean of the batch, which is 0 only where trajectories count once.
    """

    group_baseline: bool = False
    """Subtract the mean of the group first (REINFORCE++-baseline); off, groups of one are as good as any."""

    weight_by_tokens: bool = True
    """Let a trajectory count with its sampled tokens, as public code does [3]; off, it counts once."""

    std_kind: StdKind = StdKind.population
    """Divisor of the variance, n or n - 1; public code takes tokens - 1, from which n differs by 1 / tokens [O]."""

    eps: float = 1e-6
    """Added to the standard deviation; public code adds 1e-8 to the variance, the value and its place are ours [O]."""

    def __post_init__(self) -> None:
        check_scaling(self.std_kind, self.eps)

    @property
    def discount(self) -> float:
        """1: rewards just add up."""
        return 1.0

    @property
    def compares_siblings(self) -> bool:
        """Whether a mean of the group is taken."""
        return self.group_baseline

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
        """Advantages `[P][G][K]`, equal over K; excluded trajectories leave the statistics and get zeros."""
        return unflatten(self.of_turns(flatten(scored_groups)), scored_groups)

    def of_turns(self, turns: Turns) -> Tensor:
        """The same on flat tensors: `[K]`, float64."""
        rewards_G = turns.rewards_G
        if self.group_baseline:
            rewards_G = normalise_in_groups(
                rewards_G, turns.group_index_G, std_kind=self.std_kind, eps=self.eps, scale_by_std=False
            )
        advantages_G = normalise(
            rewards_G,
            torch.zeros_like(turns.group_index_G),
            torch.arange(turns.num_trajectories, device=rewards_G.device),
            turns.num_tokens_G if self.weight_by_tokens else torch.ones_like(rewards_G),
            std_kind=self.std_kind,
            eps=self.eps,
            scale_by_std=True,
        )
        return advantages_G[turns.trajectory_index_K]
