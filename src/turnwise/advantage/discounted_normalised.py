"""The order of IGPO: turn rewards are normalised first, and the normalised numbers are discounted."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.group_statistics import Pool, StdKind, assign_pools, normalise
from turnwise.core.ranges import check_choice, check_discount, check_scaling
from turnwise.core.returns import discounted_returns
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class DiscountedNormalisedAdvantage:
    """Normalise, then discount (IGPO, arXiv 2510.14967); GTPO discounts, then normalises.

    `a_{i,j} = (r_{i,j} - mean(S)) / (std(S) + eps)` with all turn rewards of the pool in S, outcomes included, then
    `A_{i,j} = sum_{m >= j} discount^(m - j) a_{i,m}`.

    The sum ends with the trajectory: turns that it does not have add nothing. Hence the mean is taken from a turn's
    advantage once for each turn that is left. Where it is positive, a longer way to the same reward costs more, even
    with a discount of 1; and a baseline with as many terms as the trajectory has turns is biased where the policy
    decides when to stop.
    """

    discount: float = 1.0
    """Factor per turn between a normalised reward and the turns before it; public code of IGPO runs with 1 [3]. With
    GTPO's 0.9 nothing but the order differs from `turn_return`."""

    pool: Pool = Pool.group
    """Turn rewards that form S: those of the group, or of the batch."""

    std_kind: StdKind = StdKind.population
    """Divisor of the variance of S, n or n - 1; n is our choice [O]."""

    eps: float = 1e-6
    """Added to the standard deviation [O]."""

    scale_by_std: bool = True
    """Divide by the standard deviation; off, the advantage is a sum of centred rewards, in units of reward."""

    def __post_init__(self) -> None:
        check_discount(self.discount)
        check_scaling(self.std_kind, self.eps)
        check_choice("pool", self.pool, (Pool.group, Pool.batch))

    @property
    def compares_siblings(self) -> bool:
        """Whether the pool ends at the group."""
        return self.pool == Pool.group

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
        """Advantages `[P][G][K]`; excluded trajectories leave the statistics and get zeros."""
        return unflatten(self.of_turns(flatten(scored_groups)), scored_groups)

    def of_turns(self, turns: Turns) -> Tensor:
        """The same on flat tensors: `[K]`, float64."""
        pool_K, is_member_K = assign_pools(self.pool, turns.group_index_K, turns.turn_index_K)
        normalised_K = normalise(
            turns.rewards_K,
            pool_K,
            turns.trajectory_index_K,
            is_member_K,
            std_kind=self.std_kind,
            eps=self.eps,
            scale_by_std=self.scale_by_std,
        )
        return discounted_returns(normalised_K, turns.trajectory_index_K, self.discount)
