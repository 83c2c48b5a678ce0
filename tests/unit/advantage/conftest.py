"""Scored groups whose rewards are written out by the test, and every estimator."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from builders import group, trajectory
from turnwise.advantage.discounted_normalised import DiscountedNormalisedAdvantage
from turnwise.advantage.end_aligned import EndAlignedAdvantage
from turnwise.advantage.gigpo import Anchor, GiGPOAdvantage
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.hybrid_turn import HybridTurnAdvantage
from turnwise.advantage.mt_grpo import MTGRPOAdvantage
from turnwise.advantage.reinforce_pp import ReinforcePPAdvantage
from turnwise.advantage.rloo import RlooAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.core.group_statistics import Pool
from turnwise.protocols import AdvantageEstimator
from turnwise.types import ScoredGroup, StopReason, Trajectory

MakeScored = Callable[..., ScoredGroup]

ESTIMATORS: dict[str, AdvantageEstimator] = {
    **{f"turn_return_{pool}": TurnReturnAdvantage(pool=pool) for pool in Pool},
    "turn_return_by_trajectory": TurnReturnAdvantage(leave_one_out=True, weight_by_trajectory=True),
    "turn_return_centred": TurnReturnAdvantage(scale_by_std=False, mask_equal_outcomes=True),
    "group_norm": GroupNormAdvantage(),
    "group_norm_centred": GroupNormAdvantage(scale_by_std=False),
    "rloo": RlooAdvantage(),
    "reinforce_pp": ReinforcePPAdvantage(),
    "reinforce_pp_baseline": ReinforcePPAdvantage(group_baseline=True),
    "reinforce_pp_by_trajectory": ReinforcePPAdvantage(group_baseline=True, weight_by_tokens=False),
    "mt_grpo": MTGRPOAdvantage(),
    "mt_grpo_centred": MTGRPOAdvantage(scale_by_std=False),
    "hybrid_turn": HybridTurnAdvantage(),
    "hybrid_turn_centred": HybridTurnAdvantage(scale_by_std=False),
    "discounted_normalised_group": DiscountedNormalisedAdvantage(),
    "discounted_normalised_batch": DiscountedNormalisedAdvantage(pool=Pool.batch, scale_by_std=False),
    "end_aligned": EndAlignedAdvantage(),
    "end_aligned_centred": EndAlignedAdvantage(scale_by_std=False),
    "gigpo": GiGPOAdvantage(),
    "gigpo_transcript": GiGPOAdvantage(anchor=Anchor.transcript, scale_by_std=False),
}


@pytest.fixture(scope="session", params=list(ESTIMATORS.values()), ids=list(ESTIMATORS))
def estimator(request: pytest.FixtureRequest) -> AdvantageEstimator:
    """Each estimator in each of the shapes that differ in more than a number."""
    return request.param


@pytest.fixture(scope="session")
def estimators() -> list[AdvantageEstimator]:
    """All of them."""
    return list(ESTIMATORS.values())


@pytest.fixture(scope="session")
def scored() -> MakeScored:
    """Makes a group from one row of turn rewards for each trajectory; `excluded` ones met a failing tool.

    `outcomes` says which part of each trajectory's last reward judges it as a whole. `replies` gives the one token of
    the environment's reply after each turn; without it the replies differ by turn, not by trajectory.
    """

    def make(
        *rows: Sequence[float],
        outcomes: Sequence[float] | None = None,
        replies: Sequence[Sequence[int]] | None = None,
        correct: Sequence[bool] | None = None,
        excluded: Sequence[int] = (),
        id: str = "p0",
    ) -> ScoredGroup:
        trajectories = [
            trajectory(
                [None] * len(row),
                problem_id=id,
                sample_index=g,
                stop_reason=StopReason.tool_infrastructure if g in excluded else StopReason.answered,
            )
            for g, row in enumerate(rows)
        ]
        if replies is not None:
            trajectories = [_with_replies(t, tokens) for t, tokens in zip(trajectories, replies, strict=True)]
        rewards = tuple(tuple(float(reward) for reward in row) for row in rows)
        outcomes = outcomes if outcomes is not None else [0.0] * len(rows)
        judged = tuple(
            tuple(outcome if k == len(row) - 1 else 0.0 for k in range(len(row)))
            for row, outcome in zip(rows, outcomes, strict=True)
        )
        process = tuple(
            tuple(reward - part for reward, part in zip(row, parts, strict=True))
            for row, parts in zip(rewards, judged, strict=True)
        )
        return ScoredGroup(
            group=group(*trajectories, id=id),
            turn_rewards_GK=rewards,
            terms={"process": process, "outcome": judged},
            correct_G=tuple(correct if correct is not None else [bool(row) and row[-1] == 1 for row in rows]),
            outcome_terms=("outcome",),
        )

    return make


def _with_replies(trajectory: Trajectory, replies: Sequence[int]) -> Trajectory:
    token_ids = list(trajectory.token_ids)
    for turn, reply in zip(trajectory.turns[:-1], replies, strict=True):
        token_ids[turn.span[1]] = reply
    return replace(trajectory, token_ids=tuple(token_ids))
