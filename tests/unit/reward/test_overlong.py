"""DAPO's soft penalty: nothing, then a slope, then the whole of it."""

import pytest

from builders import group, trajectory
from turnwise.reward.format import FormatRule
from turnwise.reward.outcome import OutcomeReward
from turnwise.reward.overlong import OverlongPenalty
from turnwise.reward.turn_level import TurnLevelReward
from turnwise.rollout.sampler import RolloutSettings
from turnwise.types import StopReason


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    [
        (5, 0.0),
        (80, 0.0),  # 100 - 20, the last length that costs nothing
        (81, -0.025),  # -0.5 * 1 / 20
        (90, -0.25),  # half of the slope
        (100, -0.5),  # the limit
        (130, -0.5),  # beyond it
    ],
)
def test_slope_by_hand(num_tokens: int, expected: float):
    # 3 prompt tokens and one turn
    one = trajectory((None,), turn_tokens=num_tokens - 3)
    assert OverlongPenalty(buffer_fraction=0.2, penalty=0.5, max_tokens=100)(one) == pytest.approx(expected)


def test_a_trajectory_that_was_cut_pays_all_however_short_what_is_left():
    penalty = OverlongPenalty(buffer_fraction=0.2, penalty=0.5, max_tokens=100)
    assert penalty(trajectory(("a",), stop_reason=StopReason.max_tokens)) == -0.5
    assert penalty(trajectory(("a",), stop_reason=StopReason.max_turns)) == 0.0


def test_without_a_buffer_length_costs_nothing():
    assert OverlongPenalty(max_tokens=10)(trajectory((None,), turn_tokens=1000)) == 0.0
    scored = TurnLevelReward()(group(trajectory(answer="42")))
    assert "overlong" not in scored.terms


def test_a_penalty_of_zero_is_a_plain_zero():
    assert str(OverlongPenalty(buffer_fraction=0.5, penalty=0.0, max_tokens=10)(trajectory(("a", None)))) == "0.0"


@pytest.mark.parametrize("kind", [TurnLevelReward, OutcomeReward])
def test_the_term_lies_on_the_last_turn_whatever_the_format_rule(kind: type):
    # 3 prompt tokens, turns of 2 tokens, 1 token of tool output between them: 8 tokens for two turns, 11 for three.
    long, short = trajectory(("a", "b", None), answer="42"), trajectory(("a", None), answer="42")
    assert (len(long.token_ids), len(short.token_ids)) == (11, 8)
    penalty = OverlongPenalty(buffer_fraction=1 / 3, max_tokens=12)  # from 8 on; at 11: -3/4
    for rule in FormatRule:
        scored = kind(format_rule=rule, overlong=penalty)(group(long, short))
        (long_row, short_row) = scored.terms["overlong"]
        assert long_row == (0.0, 0.0, pytest.approx(-0.75))
        assert short_row == (0.0, 0.0)
        assert scored.turn_rewards_GK == ((0.0, 0.0, pytest.approx(0.25)), (0.0, 1.0))
        assert scored.outcome_G == pytest.approx((0.25, 1.0))


def test_excluded_trajectories_pay_nothing():
    broken = trajectory(("a", None), stop_reason=StopReason.tool_infrastructure)
    scored = TurnLevelReward(overlong=OverlongPenalty(buffer_fraction=1.0, max_tokens=8))(group(broken, trajectory(())))
    assert scored.terms["overlong"] == ((0.0, 0.0), ())


def test_the_default_limit_is_that_of_the_rollouts():
    assert OverlongPenalty().max_tokens == RolloutSettings().max_tokens


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"buffer_fraction": -0.1}, "^buffer_fraction=-0.1: expected 0 to 1"),
        ({"buffer_fraction": 1.5}, "^buffer_fraction=1.5: expected 0 to 1"),
        ({"max_tokens": 0}, "^max_tokens=0: expected >= 1"),
        ({"penalty": -1.0}, "^penalty=-1.0: expected a finite number >= 0"),
        ({"penalty": float("nan")}, "^penalty=nan"),
    ],
)
def test_fields_out_of_range(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        OverlongPenalty(**fields)
