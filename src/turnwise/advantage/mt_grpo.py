"""The advantage of MT-GRPO: rewards of turns normalised by turn index, plus the normalised outcome."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.group_statistics import Pool, StdKind, assign_pools, normalise, normalise_in_groups
from turnwise.core.ranges import check_scaling
from turnwise.core.returns import discounted_returns
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class MTGRPOAdvantage:
    """Multi-Turn GRPO (MT-GRPO, arXiv 2505.11821), for any number of turns.

    `A_{i,k} = sum_{l >= k} GN_l(r_{i,l}) + GN(o_i)`, with the process reward r of a turn, the outcome o of a
    trajectory, `GN(x) = (x - mean) / (std + eps)` over the group, and GN_l over those trajectories of it that have a
    turn l.

    Biased where the policy decides when to stop (reported as verl#7244): the baseline that A_{i,k} contains is a sum of
    as many means as trajectory i has turns from k on, so it depends on the actions of i itself, and its expectation
    under the policy gradient is not 0. It also compares at turn l only those that came so far. `turn_return` with pool
    `group` has one baseline for all turns.
    """

    std_kind: StdKind = StdKind.population
    """Divisor of the variance, n or n - 1; n is our choice [O]."""

    eps: float = 1e-6
    """Added to the standard deviation [O]."""

    scale_by_std: bool = True
    """Divide by the standard deviation; off, both parts are centred only, in units of reward."""

    def __post_init__(self) -> None:
        check_scaling(self.std_kind, self.eps)

    @property
    def discount(self) -> float:
        """1: rewards just add up."""
        return 1.0

    @property
    def compares_siblings(self) -> bool:
        """True: every mean is one of the group."""
        return True

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
        """Advantages `[P][G][K]`; excluded trajectories leave the statistics and get zeros."""
        return unflatten(self.of_turns(flatten(scored_groups)), scored_groups)

    def of_turns(self, turns: Turns) -> Tensor:
        """The same on flat tensors: `[K]`, float64."""
        pool_K, is_member_K = assign_pools(Pool.turn_index, turns.group_index_K, turns.turn_index_K)
        process_K = normalise(
            turns.process_rewards_K,
            pool_K,
            turns.trajectory_index_K,
            is_member_K,
            std_kind=self.std_kind,
            eps=self.eps,
            scale_by_std=self.scale_by_std,
        )
        outcome_G = normalise_in_groups(
            turns.outcomes_G,
            turns.group_index_G,
            std_kind=self.std_kind,
            eps=self.eps,
            scale_by_std=self.scale_by_std,
        )
        sums_K = discounted_returns(process_K, turns.trajectory_index_K, discount=1.0)
        return sums_K + outcome_G[turns.trajectory_index_K]
