"""The advantage of GTPO: every turn's discounted return against a pool of sibling turns."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.group_statistics import Pool, StdKind, assign_pools, normalise, share_weights
from turnwise.core.ranges import check_choice, check_discount, check_scaling
from turnwise.core.returns import discounted_returns
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class TurnReturnAdvantage:
    """Group Turn Policy Optimization (GTPO, arXiv 2511.14846; not the GTPO of 2508.03772 or of 2508.04349).

    Discounts first, then normalises: `R_{i,j} = sum_{m >= j} discount^(m - j) r_{i,m}`, then
    `A_{i,j} = (R_{i,j} - mean(S)) / (std(S) + eps)`: docs/PAPER.md sections 3 and 4, [A, R, 3]. The sources do not
    settle what S holds; `pool` names the choice. With one turn per trajectory and pool `group` it equals
    `GroupNormAdvantage`.

    A pool of unlike turns has a price: with a discount below 1, the early turns of a group whose trajectories all
    succeed alike get negative advantages. The guards `mask_equal_outcomes` and `weight_by_trajectory` are ours [O].
    """

    discount: float = 0.9
    """Factor per turn between a reward and the turns before it; 0.9 is GTPO's gamma [R, 3], 1 turns discounting off."""

    pool: Pool = Pool.group
    """Returns that form S: the group's (best supported [3]), the batch's, those of a turn index, or of first turns."""

    std_kind: StdKind = StdKind.population
    """Divisor of the variance of S, n or n - 1; the sources are silent, n is our choice [O]."""

    eps: float = 1e-6
    """Added to the standard deviation; public copies use 1e-6 or 1e-4, the smaller is our choice [O]."""

    scale_by_std: bool = True
    """Divide by the standard deviation; off, the advantage is the centred return, in units of reward."""

    leave_one_out: bool = False
    """Take the mean over the other trajectories of the pool, never the turn's own (RLOO, arXiv 2402.14740)."""

    mask_equal_outcomes: bool = False
    """Give zeros to groups that are all correct or all wrong; their returns still enter S where S is the batch."""

    weight_by_trajectory: bool = False
    """Let each trajectory count once in S, shared among its turns; off, each turn counts once."""

    def __post_init__(self) -> None:
        check_discount(self.discount)
        check_scaling(self.std_kind, self.eps)
        check_choice("pool", self.pool, Pool)

    @property
    def compares_siblings(self) -> bool:
        """Whether the pool ends at the group, or groups of equal outcomes are silenced."""
        return self.pool != Pool.batch or self.mask_equal_outcomes

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
        """Advantages `[P][G][K]`; excluded trajectories leave the statistics and get zeros."""
        return unflatten(self.of_turns(flatten(scored_groups)), scored_groups)

    def of_turns(self, turns: Turns) -> Tensor:
        """The same on flat tensors: `[K]`, float64."""
        pool_K, is_member_K = assign_pools(self.pool, turns.group_index_K, turns.turn_index_K)
        weights_K = is_member_K.double()
        if self.weight_by_trajectory:
            weights_K = share_weights(weights_K, pool_K, turns.trajectory_index_K)
        advantages_K = normalise(
            discounted_returns(turns.rewards_K, turns.trajectory_index_K, self.discount),
            pool_K,
            turns.trajectory_index_K,
            weights_K,
            std_kind=self.std_kind,
            eps=self.eps,
            scale_by_std=self.scale_by_std,
            leave_one_out=self.leave_one_out,
        )
        if self.mask_equal_outcomes:
            advantages_K = advantages_K.masked_fill(turns.has_equal_outcomes_G[turns.trajectory_index_K], 0)
        return advantages_K
