import math
from typing import Any

import pytest

from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.hybrid_turn import HybridTurnAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.core.group_statistics import Pool

# Process rewards (-.1, 0), (0, -.1), (0) and outcomes 1, 0, 0; discount .5 gives the returns .4, 1; -.05, -.1; 0.
ROWS, OUTCOMES = ([-0.1, 1], [0, -0.1], [0]), [1, 0, 0]


def test_returns_by_turn_index_and_a_share_of_the_outcome(scored):
    # GN_1 of .4, -.05, 0: mean .116667, squares .080278 + .027778 + .013611 = .121667, std sqrt(/ 3) = .201384:
    #   .283333 / .201384 = 1.406930, -.166667 / .201384 = -.827606, -.116667 / .201384 = -.579324
    # GN_2 of 1, -.1: 1, -1.   Half of GN of the outcomes: .707107, -.353553, -.353553
    component = HybridTurnAdvantage(discount=0.5, outcome_weight=0.5, eps=0)
    first, second, third = component([scored(*ROWS, outcomes=OUTCOMES)])[0]
    assert first == pytest.approx([2.114037, 1.707107], abs=1e-5)
    assert second == pytest.approx([-1.181159, -1.353553], abs=1e-5)
    assert third == pytest.approx([-0.932877], abs=1e-5)


def test_mean_only(scored):
    # .283333, -.166667, -.116667; .55, -.55; .5 times .666667, -.333333, -.333333
    component = HybridTurnAdvantage(discount=0.5, outcome_weight=0.5, scale_by_std=False)
    first, second, third = component([scored(*ROWS, outcomes=OUTCOMES)])[0]
    assert first == pytest.approx([0.616667, 0.883333], abs=1e-6)
    assert second == pytest.approx([-0.333333, -0.716667], abs=1e-6)
    assert third == pytest.approx([-0.283333], abs=1e-6)


def test_without_the_outcome_term_it_is_turn_return_by_turn_index(scored):
    groups = [scored(*ROWS, outcomes=OUTCOMES), scored([0, 1], [0, -0.1], outcomes=[1, 0], id="p1")]
    by_turn_index = TurnReturnAdvantage(pool=Pool.turn_index)
    assert HybridTurnAdvantage(outcome_weight=0)(groups) == by_turn_index(groups)


def test_one_turn_with_nothing_but_an_outcome_is_grpo_times_one_and_the_weight(scored):
    group = scored([1], [0], [0], outcomes=[1, 0, 0])
    expected = [pytest.approx([1.3 * row[0]]) for row in GroupNormAdvantage()([group])[0]]
    assert HybridTurnAdvantage()([group])[0] == expected


def test_defaults_are_the_documented_ones():
    assert (HybridTurnAdvantage().discount, HybridTurnAdvantage().outcome_weight) == (0.9, 0.3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"discount": 1.1}, "discount=1.1: expected 0 to 1"),
        ({"outcome_weight": -0.3}, "outcome_weight=-0.3: expected at least 0 and finite"),
        ({"outcome_weight": math.inf}, "outcome_weight=inf: expected at least 0 and finite"),
        ({"outcome_weight": math.nan}, "outcome_weight=nan: expected at least 0 and finite"),
        ({"eps": 1.0}, "eps=1.0: expected at least 0 and less than 1"),
    ],
)
def test_fields_out_of_range(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        HybridTurnAdvantage(**fields)
