"""The advantage of RLOO: each trajectory's reward against the mean of the others of its group."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.group_statistics import StdKind, normalise_in_groups
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class RlooAdvantage:
    """REINFORCE Leave-One-Out (RLOO, arXiv 2402.14740).

    `A_i = r_i - 1 / (G - 1) sum_{j != i} r_j` over the group, repeated for each turn of trajectory i; r_i is the sum of
    its turn rewards, not discounted. A trajectory is never part of its own baseline, which is what keeps the gradient
    unbiased; the price is `G / (G - 1)` times the numbers of Dr.GRPO. Nothing to set. A group of one gives 0.
    """

    @property
    def discount(self) -> float:
        """1: rewards just add up."""
        return 1.0

    @property
    def compares_siblings(self) -> bool:
        """True: the mean is that of the others of the group."""
        return True

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
        """Advantages `[P][G][K]`, equal over K; excluded trajectories leave the statistics and get zeros."""
        return unflatten(self.of_turns(flatten(scored_groups)), scored_groups)

    def of_turns(self, turns: Turns) -> Tensor:
        """The same on flat tensors: `[K]`, float64."""
        advantages_G = normalise_in_groups(
            turns.rewards_G,
            turns.group_index_G,
            std_kind=StdKind.population,  # unused without scaling, as is eps
            eps=0.0,
            scale_by_std=False,
            leave_one_out=True,
        )
        return advantages_G[turns.trajectory_index_K]
