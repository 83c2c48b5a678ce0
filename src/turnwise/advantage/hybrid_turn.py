"""The hybrid advantage: discounted returns normalised by turn index, plus a share of the normalised outcome."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.group_statistics import Pool, StdKind, assign_pools, normalise, normalise_in_groups
from turnwise.core.ranges import check_discount, check_scaling, check_weight
from turnwise.core.returns import discounted_returns
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class HybridTurnAdvantage:
    """The hybrid of MT-GRPO with discounted turn returns (arXiv 2604.02869).

    `A_{i,k} = GN_k(sum_{l >= k} discount^(l - k) r_{i,l} + discount^(K_i - k) o_i) + outcome_weight GN(o_i)`, with the
    process reward r of a turn, the outcome o of a trajectory of K_i turns, `GN(x) = (x - mean) / (std + eps)` over the
    group, and GN_k over those trajectories of it that have a turn k. The outcome is part of the last turn's reward, so
    what GN_k is given is the return of turn k, and the first term is `turn_return` with pool `turn_index`.

    Like every baseline by turn index it is biased where the policy decides when to stop: at turn k it compares only
    those trajectories that came so far.
    """

    discount: float = 0.9
    """Factor per turn between a reward, the outcome included, and the turns before it."""

    outcome_weight: float = 0.3
    """Weight of the normalised outcome, the same number at each turn (lambda); 0 leaves the first term alone."""

    std_kind: StdKind = StdKind.population
    """Divisor of the variance, n or n - 1; n is our choice [O]."""

    eps: float = 1e-6
    """Added to the standard deviation [O]."""

    scale_by_std: bool = True
    """Divide by the standard deviation; off, both terms are centred only, in units of reward."""

    def __post_init__(self) -> None:
        check_discount(self.discount)
        check_weight("outcome_weight", self.outcome_weight)
        check_scaling(self.std_kind, self.eps)

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
        return_K = normalise(
            discounted_returns(turns.rewards_K, turns.trajectory_index_K, self.discount),
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
        return return_K + self.outcome_weight * outcome_G[turns.trajectory_index_K]
