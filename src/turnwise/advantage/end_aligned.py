"""GTPO's discount without its price: every turn's return against that of an average sibling as far from its end."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.group_statistics import StdKind, over_root_mean_square, share_weights
from turnwise.core.ranges import check_discount, check_scaling
from turnwise.core.returns import average_trajectory_returns, discounted_returns
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class EndAlignedAdvantage:
    """Discounted returns compared at equal distance from the end; our own [O], after GTPO (arXiv 2511.14846).

    `A_{i,j} = (R_{i,j} - b(T_i - j)) / (spread + eps)`: `R` as in GTPO, `b(d)` the return of the group's average
    trajectory d turns before its end (`average_trajectory_returns`), and the spread the root mean square of the
    differences over the group, in which each trajectory counts once.

    With a reward on the last turn only the difference is `discount^(T_i - j) (r_i - mean(r))`: GRPO's advantage,
    weaker the longer before the end. So no turn is punished for being early, and trajectories that all earn the same
    at the end get 0, where GTPO's pool of unlike turns gives them neither. There a discount of 1 makes it GRPO's
    advantage with the population's standard deviation; so does one turn a trajectory. The distance from the end
    depends on when the policy stops, so that, unlike GTPO's, this discount does not prefer short solutions to long
    ones.
    """

    discount: float = 0.9
    """Factor per turn between a reward and the turns before it."""

    eps: float = 1e-6
    """Added to the spread."""

    scale_by_std: bool = True
    """Divide by the spread; off, the advantage is in units of reward."""

    def __post_init__(self) -> None:
        check_discount(self.discount)
        check_scaling(StdKind.population, self.eps)

    @property
    def compares_siblings(self) -> bool:
        """Whether a trajectory is compared with its siblings: always."""
        return True

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
        """Advantages `[P][G][K]`; excluded trajectories leave the statistics and get zeros."""
        return unflatten(self.of_turns(flatten(scored_groups)), scored_groups)

    def of_turns(self, turns: Turns) -> Tensor:
        """The same on flat tensors: `[K]`, float64."""
        index_K, group_K = turns.trajectory_index_K, turns.group_index_K
        returns_K = discounted_returns(turns.rewards_K, index_K, self.discount)
        differences_K = returns_K - average_trajectory_returns(turns.rewards_K, index_K, group_K, self.discount)
        weights_K = share_weights(torch.ones_like(returns_K), group_K, index_K)
        scaled_K = over_root_mean_square(returns_K, differences_K, group_K, weights_K, self.eps)
        return scaled_K if self.scale_by_std else torch.where(scaled_K == 0, 0, differences_K)
