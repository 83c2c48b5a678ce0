"""Where the credit of a step lies, counted by hand."""

from collections.abc import Sequence
from math import sqrt

import pytest

from builders import group, trajectory
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.protocols import PGK, AdvantageEstimator
from turnwise.rollout.diagnostics import diagnose, turn_returns
from turnwise.types import ScoredGroup, StopReason

Rows = Sequence[Sequence[float]]
CENTRED = TurnReturnAdvantage(discount=0.9, scale_by_std=False)


class NeverAsked:
    """An estimator that must not run again."""

    discount = 0.9
    compares_siblings = True

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]:
        raise AssertionError("shaping is off")


def scored(rewards: Rows, shaping: Rows | None = None, failed: Sequence[int] = (), id: str = "p0") -> ScoredGroup:
    """A group with these rewards, of which `shaping` is a part."""
    trajectories = [
        trajectory(
            [None] * len(row),
            sample_index=g,
            problem_id=id,
            stop_reason=StopReason.tool_infrastructure if g in failed else StopReason.answered,
        )
        for g, row in enumerate(rewards)
    ]
    total = tuple(tuple(map(float, row)) for row in rewards)
    shaped = tuple(tuple(0.0 for _ in row) for row in rewards) if shaping is None else tuple(map(tuple, shaping))
    rest = tuple(tuple(a - b for a, b in zip(x, y, strict=True)) for x, y in zip(total, shaped, strict=True))
    return ScoredGroup(
        group=group(*trajectories, id=id),
        turn_rewards_GK=total,
        terms={"accuracy": rest, "shaping": shaped},
        correct_G=tuple(False for _ in rewards),
    )


def figures_of(
    groups: Sequence[ScoredGroup], estimator: AdvantageEstimator = CENTRED, advantages: PGK | None = None
) -> dict[str, float]:
    given = estimator(groups) if advantages is None else advantages
    return diagnose(groups, turn_returns(groups, estimator.discount), given, estimator)


def test_means_by_turn_leave_out_what_the_infrastructure_failed():
    groups = [scored([[0, 1], [-0.1, 0, 0], [9, 9, 9]], failed=[2])]
    figures = figures_of(groups, NeverAsked(), [[[1, 2], [0, 0, 3], [0, 0, 0]]])
    by_turn = {name: value for name, value in figures.items() if "turn_" in name and name[-1].isdigit()}
    assert by_turn == pytest.approx(
        {
            "reward/turn_1": -0.05,  # (0 - .1) / 2
            "reward/turn_2": 0.5,
            "reward/turn_3": 0.0,
            "return/turn_1": 0.4,  # (.9 * 1 + -.1) / 2
            "return/turn_2": 0.5,
            "return/turn_3": 0.0,
            "advantage/turn_1": 0.5,
            "advantage/turn_2": 1.0,
            "advantage/turn_3": 3.0,
            "rollout/reached_turn_1": 1.0,
            "rollout/reached_turn_2": 1.0,
            "rollout/reached_turn_3": 0.5,
        }
    )


def test_correlation_with_the_place_by_hand():
    # places 0 1 0 1 2 less .8, advantages 1 2 0 0 3 less 1.2: products .16 + .16 + .96 - .24 + 2.16 = 3.2,
    # squares .64 + .04 + .64 + .04 + 1.44 = 2.8 and .04 + .64 + 1.44 + 1.44 + 3.24 = 6.8
    figures = figures_of([scored([[0, 1], [0, 0, 0]])], NeverAsked(), [[[1, 2], [0, 0, 3]]])
    assert figures["advantage/turn_correlation"] == pytest.approx(3.2 / sqrt(2.8 * 6.8))


def test_no_correlation_where_nothing_varies():
    equal = figures_of([scored([[0, 0], [0, 0]])])
    single = figures_of([scored([[0], [1]])])
    assert equal["advantage/turn_correlation"] == single["advantage/turn_correlation"] == 0


def test_the_bias_is_taken_at_the_discount_of_the_estimator():
    # Means by turn index -.05, .5, 0: discounted by .9 the price is (.45 + .45 + 0) / 3, undiscounted (.5 + .5 + 0) / 3
    groups = [scored([[0, 1], [-0.1, 0, 0]])]
    assert figures_of(groups)["advantage/turn_index_bias"] == pytest.approx(-0.3)
    assert figures_of(groups, GroupNormAdvantage())["advantage/turn_index_bias"] == pytest.approx(-1 / 3)


def test_what_shaping_did_by_hand():
    # Mean only, one turn each. Group 1: 1, .5, -.1 with mean 1.4 / 3, unshaped 1, 0, -.1 with mean .3: the second
    # trajectory goes from -.3 to +.033. Group 2: 0, .4 with mean .2, unshaped 0, 0: both turns wake.
    # Group 3: nothing either way. Group 4 failed as a whole and does not count.
    groups = [
        scored([[1], [0.5], [-0.1]], shaping=[[0], [0.5], [0]]),
        scored([[0], [0.4]], shaping=[[0], [0.4]], id="p1"),
        scored([[-0.1], [-0.1]], id="p2"),
        scored([[1], [0]], failed=[0, 1], id="p3"),
    ]
    figures = figures_of(groups)
    assert figures["shaping/sign_flips"] == pytest.approx(1 / 7)
    assert figures["shaping/turns_from_zero"] == pytest.approx(2 / 7)
    assert figures["shaping/informed_groups"] == pytest.approx(1 / 3)
    assert figures["reward/zero_variance_groups"] == pytest.approx(1 / 3)
    assert figures["reward/zero_variance_groups_unshaped"] == pytest.approx(2 / 3)


def test_zero_to_zero_and_from_a_sign_to_zero_are_no_flips():
    # Unshaped 1, 0, -.1 gives the second -.3; with .45 it lies on the mean (1 + .45 - .1) / 3 = .45, but for rounding.
    figures = figures_of([scored([[1], [0.45], [-0.1]], shaping=[[0], [0.45], [0]])], GroupNormAdvantage())
    assert figures["shaping/sign_flips"] == 0
    assert figures["shaping/turns_from_zero"] == 0


def test_variance_is_that_of_the_sum_over_turns_and_rounding_is_none():
    # .1 + .2 is not .3 in floating point, but it is the same reward.
    same, one = scored([[0.1, 0.2], [0.3], [0, 0.3]]), scored([[1, 0]], id="p1")
    assert figures_of([same, one])["reward/zero_variance_groups"] == 1
    assert figures_of([same, scored([[0.1], [0.3]], id="p1")])["reward/zero_variance_groups"] == 0.5


def test_without_a_shaping_term_the_estimator_is_not_asked_again():
    groups = [scored([[0, 1], [0]])]
    bare = [
        ScoredGroup(group=g.group, turn_rewards_GK=g.turn_rewards_GK, terms={}, correct_G=g.correct_G) for g in groups
    ]
    for kind in (groups, bare):
        figures = figures_of(kind, NeverAsked(), [[[0, 1], [-1]]])
        assert [value for name, value in figures.items() if name.startswith("shaping/")] == [0, 0, 0]
        assert figures["reward/zero_variance_groups"] == figures["reward/zero_variance_groups_unshaped"] == 0


def test_a_step_of_failures_has_no_figures():
    assert figures_of([scored([[1], [0]], failed=[0, 1])]) == {}
    assert figures_of([]) == {}
