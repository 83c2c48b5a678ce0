import math

import pytest

from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.mt_grpo import MTGRPOAdvantage

# Process rewards (-.1, 0), (0, -.1), (0) and outcomes 1, 0, 0; the outcome is part of the last turn's reward.
ROWS, OUTCOMES = ([-0.1, 1], [0, -0.1], [0]), [1, 0, 0]


def test_later_turns_add_up_beside_the_outcome(scored):
    # GN_1 of -.1, 0, 0: mean -.033333, std .0471405: -1.414214, .707107, .707107
    # GN_2 of 0, -.1: 1, -1.   GN of the outcomes 1, 0, 0: 1.414214, -.707107, -.707107
    # -1.414214 + 1 + 1.414214 = 1,  1 + 1.414214;   .707107 - 1 - .707107 = -1,  -1 - .707107;   .707107 - .707107
    first, second, third = MTGRPOAdvantage(eps=0)([scored(*ROWS, outcomes=OUTCOMES)])[0]
    assert first == pytest.approx([1, 2.414214], abs=1e-6)
    assert second == pytest.approx([-1, -1.707107], abs=1e-6)
    assert third == pytest.approx([0], abs=1e-6)


def test_mean_only(scored):
    # turn 1: -.066667, .033333, .033333; turn 2: .05, -.05; outcomes: .666667, -.333333, -.333333
    first, second, third = MTGRPOAdvantage(scale_by_std=False)([scored(*ROWS, outcomes=OUTCOMES)])[0]
    assert first == pytest.approx([0.65, 0.716667], abs=1e-6)
    assert second == pytest.approx([-0.35, -0.383333], abs=1e-6)
    assert third == pytest.approx([-0.3], abs=1e-6)


def test_a_turn_that_no_sibling_has_adds_nothing(scored):
    # Turn 2 exists once: its -.1 says nothing. Turn 1: both 0.
    assert MTGRPOAdvantage()([scored([0, -0.1], [0], outcomes=[0, 0])]) == [[[0, 0], [0]]]


def test_without_process_rewards_it_is_grpo(scored):
    group = scored([0, 0, 1], [0], [0, 1], [0, 0], outcomes=[1, 0, 1, 0])
    assert MTGRPOAdvantage()([group]) == GroupNormAdvantage()([group])


def test_one_turn_adds_grpo_of_both_parts(scored):
    process, outcomes = [-0.1, 0, 0, -0.1], [1, 0, 1, 0]
    both = scored(*[[p + o] for p, o in zip(process, outcomes, strict=True)], outcomes=outcomes)
    parts = [GroupNormAdvantage()([scored(*[[x] for x in part])])[0] for part in (process, outcomes)]
    expected = [pytest.approx([p[0] + o[0]]) for p, o in zip(*parts, strict=True)]
    assert MTGRPOAdvantage()([both])[0] == expected


@pytest.mark.parametrize("eps", [-1e-6, 1.0, math.nan])
def test_eps_out_of_range(eps: float):
    with pytest.raises(ValueError, match=f"eps={eps}: expected at least 0 and less than 1"):
        MTGRPOAdvantage(eps=eps)
