"""The advantage of GRPO: one number per trajectory against its group, the same for every turn."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.group_statistics import StdKind, normalise_in_groups
from turnwise.core.ranges import check_scaling
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class GroupNormAdvantage:
    """Group Relative Policy Optimization (GRPO, arXiv 2402.03300).

    `A_i = (r_i - mean(r)) / (std(r) + eps)` over the group, repeated for each turn of trajectory i. The number r_i is
    the sum of the turn rewards, not discounted: with `reward=outcome`, which rewards the last turn only, that reward.

    Dr.GRPO (arXiv 2503.20783) is `scale_by_std=False` with the loss reduction `constant`.
    """

    std_kind: StdKind = StdKind.population
    """Divisor of the variance, n or n - 1; public copies of GRPO differ, n is our choice for both arms [O]."""

    eps: float = 1e-6
    """Added to the standard deviation; public copies use 1e-6 or 1e-4."""

    scale_by_std: bool = True
    """Divide by the standard deviation; off (Dr.GRPO), the advantage is the centred number."""

    leave_one_out: bool = False
    """Take the mean over the other trajectories of the group, never one's own (RLOO)."""

    mask_equal_outcomes: bool = False
    """Give zeros to groups that are all correct or all wrong, whatever else their rewards tell apart."""

    @property
    def discount(self) -> float:
        """1: rewards just add up."""
        return 1.0

    @property
    def compares_siblings(self) -> bool:
        """True: the mean is the group's."""
        return True

    def __post_init__(self) -> None:
        check_scaling(self.std_kind, self.eps)

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
        """Advantages `[P][G][K]`, equal over K; excluded trajectories leave the statistics and get zeros."""
        return unflatten(self.of_turns(flatten(scored_groups)), scored_groups)

    def of_turns(self, turns: Turns) -> Tensor:
        """The same on flat tensors: `[K]`, float64."""
        advantages_G = normalise_in_groups(
            turns.rewards_G,
            turns.group_index_G,
            std_kind=self.std_kind,
            eps=self.eps,
            scale_by_std=self.scale_by_std,
            leave_one_out=self.leave_one_out,
        )
        if self.mask_equal_outcomes:
            advantages_G = advantages_G.masked_fill(turns.has_equal_outcomes_G, 0)
        return advantages_G[turns.trajectory_index_K]
