"""Returns compared at equal distance from the end."""

import pytest

from turnwise.advantage.end_aligned import EndAlignedAdvantage
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage


def test_the_discounted_difference_from_the_mean_outcome(scored):
    # Outcomes 1 (three turns) and 0 (two turns): mean .5; gamma .5: .25 * .5, .5 * .5, .5 and .5 * -.5, -.5
    rows = EndAlignedAdvantage(discount=0.5, scale_by_std=False)([scored([0, 0, 1], [0, 0], outcomes=[1, 0])])[0]
    assert rows == [[0.125, 0.25, 0.5], [-0.25, -0.5]]


def test_the_spread_counts_each_trajectory_once(scored):
    # Differences as above. Mean squares: (1/64 + 1/16 + 1/4) / 3 = 7/64 and (1/16 + 1/4) / 2 = 10/64; sqrt(8.5/64)
    rows = EndAlignedAdvantage(discount=0.5, eps=0)([scored([0, 0, 1], [0, 0], outcomes=[1, 0])])[0]
    spread = (8.5 / 64) ** 0.5
    assert rows[0] == pytest.approx([0.125 / spread, 0.25 / spread, 0.5 / spread])
    assert rows[1] == pytest.approx([-0.25 / spread, -0.5 / spread])


def test_success_of_everybody_says_nothing_though_gtpo_punishes_early_turns(scored):
    group = scored([0, 0, 1], [0, 1], [0, 0, 0, 1], outcomes=[1, 1, 1])
    assert EndAlignedAdvantage()([group]) == [[[0, 0, 0], [0, 0], [0, 0, 0, 0]]]
    assert TurnReturnAdvantage()([group])[0][0][0] < -0.5


def test_a_turns_own_reward_is_compared_with_that_of_turns_as_far_from_the_end(scored):
    # Two turns before the end: -.1 and 0, mean -.05; nothing else differs, so the later turns get 0.
    rows = EndAlignedAdvantage(discount=0.9, scale_by_std=False)([scored([-0.1, 0, 1], [0, 0, 1], outcomes=[1, 1])])[0]
    assert rows[0] == pytest.approx([-0.05, 0, 0])
    assert rows[1] == pytest.approx([0.05, 0, 0])


def test_a_turn_that_no_sibling_has_is_its_own_measure(scored):
    # Five turns beside two: the first three turns of the long one have no turn as far from the end to differ from in
    # reward, so they inherit what the outcomes differ by: gamma^d * (0 - .5).
    rows = EndAlignedAdvantage(discount=0.9, scale_by_std=False)([scored([0] * 5, [0, 1], outcomes=[0, 1])])[0]
    assert rows[0] == pytest.approx([-0.5 * 0.9**d for d in (4, 3, 2, 1, 0)])


def test_without_discount_it_is_grpo(scored):
    groups = [
        scored([0, 0, 1], [0, 0], [0, 1], [0], outcomes=[1, 0, 1, 0]),
        scored([1], [0, 0], outcomes=[1, 0], id="p1"),
    ]
    found, expected = EndAlignedAdvantage(discount=1.0)(groups), GroupNormAdvantage()(groups)
    for rows, wanted in zip(found, expected, strict=True):
        for row, numbers in zip(rows, wanted, strict=True):
            assert row == pytest.approx(numbers)


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_rounding_is_no_signal(scored, scale_by_std):
    # Three times .1 adds up to .30000000000000004, a third of which is not .1.
    group = scored([0, 0.1], [0, 0.1], [0, 0.1])
    assert EndAlignedAdvantage(scale_by_std=scale_by_std)([group]) == [[[0, 0]] * 3]


@pytest.mark.parametrize(("fields", "name"), [({"discount": 1.5}, "discount=1.5"), ({"eps": -1.0}, "eps=-1.0")])
def test_refuses_what_is_out_of_range(fields, name):
    with pytest.raises(ValueError, match=name):
        EndAlignedAdvantage(**fields)
