"""Scored groups whose rewards are written out by the test."""

from collections.abc import Callable, Sequence

import pytest

from builders import group, trajectory
from turnwise.types import ScoredGroup, StopReason

MakeScored = Callable[..., ScoredGroup]


@pytest.fixture(scope="session")
def scored() -> MakeScored:
    """Makes a group from one row of turn rewards for each trajectory; `excluded` ones met a failing tool."""

    def make(
        *rows: Sequence[float], correct: Sequence[bool] | None = None, excluded: Sequence[int] = (), id: str = "p0"
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
        rewards = tuple(tuple(float(reward) for reward in row) for row in rows)
        return ScoredGroup(
            group=group(*trajectories, id=id),
            turn_rewards_GK=rewards,
            terms={"accuracy": rewards},
            correct_G=tuple(correct if correct is not None else [bool(row) and row[-1] == 1 for row in rows]),
        )

    return make
