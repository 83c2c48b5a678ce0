"""The advantage of GiGPO: a trajectory against its group, plus a turn against those that began in the same state."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.group_statistics import StdKind, normalise, normalise_in_groups
from turnwise.core.ranges import check_choice, check_discount, check_scaling, check_weight
from turnwise.core.returns import discounted_returns
from turnwise.core.turns import Turns
from turnwise.types import ScoredGroup


class Anchor(StrEnum):
    """What two turns of a group must share to have begun in one state."""

    observation = "observation"
    transcript = "transcript"


@dataclass(frozen=True, kw_only=True)
class GiGPOAdvantage:
    """Group-in-Group Policy Optimization (GiGPO, arXiv 2505.10978).

    `A_{i,k} = N(r_i; group) + step_weight N(R_{i,k}; state)`, with `N(x; S) = (x - mean(S)) / (std(S) + eps)`, the sum
    r_i of a trajectory's turn rewards, and the discounted return R_{i,k} of a turn. The first term compares the
    trajectories of the group, each counted once; the second the turns of the group that began in an equal anchor state.

    A trajectory that meets a state several times enters its pool with each visit, as in the paper and in public code. A
    state that only one trajectory met gives 0, however often it met it: there is no sibling to compare with [O].
    """

    discount: float = 0.95
    """Factor per turn in the returns of the second term; the first does not discount."""

    step_weight: float = 1.0
    """Weight of the second term (omega); 0 leaves the advantage of GRPO."""

    anchor: Anchor = Anchor.observation
    """What makes states equal: `observation`, the reply that the turn answers, by its tokens; `transcript`, every token
    before the turn. All first turns answer the prompt, so they share a state either way."""

    std_kind: StdKind = StdKind.population
    """Divisor of the variance, n or n - 1; n is our choice [O], public code takes n - 1."""

    eps: float = 1e-6
    """Added to the standard deviation [O]."""

    scale_by_std: bool = True
    """Divide by the standard deviation; off, both terms are centred only. The paper allows both."""

    def __post_init__(self) -> None:
        check_discount(self.discount)
        check_weight("step_weight", self.step_weight)
        check_scaling(self.std_kind, self.eps)
        check_choice("anchor", self.anchor, Anchor)

    @property
    def compares_siblings(self) -> bool:
        """True: both terms compare within the group."""
        return True

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
        """Advantages `[P][G][K]`; excluded trajectories leave the statistics and get zeros."""
        state_index_K = anchor_states(scored_groups, self.anchor)
        return unflatten(self.of_turns(flatten(scored_groups), state_index_K), scored_groups)

    def of_turns(self, turns: Turns, state_index_K: Tensor) -> Tensor:
        """The same on flat tensors, `[K]`, float64; `state_index_K` numbers the states, distinct across groups."""
        episode_G = normalise_in_groups(
            turns.rewards_G,
            turns.group_index_G,
            std_kind=self.std_kind,
            eps=self.eps,
            scale_by_std=self.scale_by_std,
        )
        step_K = normalise(
            discounted_returns(turns.rewards_K, turns.trajectory_index_K, self.discount),
            state_index_K,
            turns.trajectory_index_K,
            torch.ones_like(turns.rewards_K),
            std_kind=self.std_kind,
            eps=self.eps,
            scale_by_std=self.scale_by_std,
        )
        return episode_G[turns.trajectory_index_K] + self.step_weight * step_K


def anchor_states(scored_groups: Sequence[ScoredGroup], anchor: Anchor) -> Tensor:
    """Numbers the states in which the turns of the included trajectories began, in the order of `flatten`.

    Returns:
        int64 `[K]`, from 0; equal for turns of one group that began in an equal state, distinct across groups.
    """
    index_of_state: dict[tuple[int, tuple[int, ...]], int] = {}
    state_index: list[int] = []
    for p, scored in enumerate(scored_groups):
        for trajectory in scored.group.trajectories:
            reply_start = 0
            for turn in () if trajectory.is_excluded else trajectory.turns:
                start = 0 if anchor == Anchor.transcript else reply_start
                state = p, trajectory.token_ids[start : turn.span[0]]
                state_index.append(index_of_state.setdefault(state, len(index_of_state)))
                reply_start = turn.span[1]
    return torch.tensor(state_index, dtype=torch.int64)
