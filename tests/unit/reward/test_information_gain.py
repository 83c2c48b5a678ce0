"""The gain of each turn in the probability of the gold answer, and the outcome on the last one."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import group, trajectory
from turnwise.reward.format import FormatRule
from turnwise.reward.information_gain import GoldAnswer, InformationGainReward
from turnwise.reward.outcome import OutcomeReward
from turnwise.reward.overlong import OverlongPenalty
from turnwise.reward.turn_level import TurnLevelReward
from turnwise.types import StopReason, Trajectory


def probed(probabilities, codes=None, **fields) -> Trajectory:
    """A trajectory before whose turns the gold answer had these probabilities."""
    codes = codes or ["print(1)"] * (len(probabilities) - 1) + [None]
    return replace(trajectory(codes, **fields), gold_logprobs=tuple(math.log(p) for p in probabilities))


def test_gains_by_hand():
    right = probed((0.125, 0.5, 0.25), answer="42")  # 0.5 - 0.125, 0.25 - 0.5, then the outcome
    wrong = probed((0.125, 0.75), answer="41")  # 0.75 - 0.125
    scored = InformationGainReward()(group(right, wrong))
    assert scored.terms["information"] == (
        pytest.approx((0.375, -0.25, 0.0), abs=1e-15),
        pytest.approx((0.625, 0.0), abs=1e-15),
    )
    assert scored.turn_rewards_GK == (
        pytest.approx((0.375, -0.25, 1.0), abs=1e-15),
        pytest.approx((0.625, 0.0), abs=1e-15),
    )
    assert scored.correct_G == (True, False)
    assert scored.outcome_G == (1.0, 0.0)


def test_the_weight_multiplies_the_gains_alone():
    one = probed((0.25, 0.5), answer="42")
    assert InformationGainReward(information_weight=2.0)(group(one)).turn_rewards_GK == ((0.5, 1.0),)
    off = InformationGainReward(information_weight=0.0)(group(probed((0.5, 0.25), answer="42")))
    assert str(off.turn_rewards_GK) == "((0.0, 1.0),)", "no minus zero"
    assert off.turn_rewards_GK == TurnLevelReward(format_rule=FormatRule.gate)(off.group).turn_rewards_GK


def test_one_turn_has_no_gain():
    assert InformationGainReward()(group(probed((0.5,), codes=("a",), answer="42"))).turn_rewards_GK == ((1.0,),)


def test_a_format_error_takes_the_outcome_and_leaves_the_gains():
    bad = probed((0.25, 0.5), codes=("a", None), errors=("unclosed fence", None), answer="42")
    gate = InformationGainReward()(group(bad))
    assert gate.turn_rewards_GK == ((0.25, 0.0),)
    assert gate.outcome_G == (0.0,)
    additive = InformationGainReward(format_rule=FormatRule.additive)(group(bad))
    assert additive.turn_rewards_GK == ((pytest.approx(0.15), 1.0),)  # 0.25 - 0.1
    assert additive.outcome_G == (1.0,)


def test_shaping_and_length_are_those_of_the_other_rewards():
    members = group(probed((0.5, 0.5), answer="42"), probed((0.5, 0.5), answer="41"))
    fields = {"shaping": True, "overlong": OverlongPenalty(buffer_fraction=0.4, max_tokens=10)}
    scored, plain = InformationGainReward(**fields)(members), TurnLevelReward(**fields)(members)
    assert scored.turn_rewards_GK == plain.turn_rewards_GK == ((0.0, 0.5), (0.0, 0.0))  # 8 tokens: -2/4 of 1 and 0.5
    assert scored.terms == {"information": ((0.0, 0.0), (0.0, 0.0)), **plain.terms}


def test_excluded_trajectories_need_no_probe_and_get_zeros():
    broken = trajectory(("a", None), answer="42", stop_reason=StopReason.tool_infrastructure)
    scored = InformationGainReward()(group(broken, trajectory(())))
    assert scored.turn_rewards_GK == ((0.0, 0.0), ())


def test_without_the_probe_the_error_says_what_is_missing():
    with pytest.raises(ValueError, match=r"'p0'/3 has no gold_logprobs.*reward=information_gain"):
        InformationGainReward()(group(trajectory(sample_index=3)))


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=6))
def test_the_gains_of_a_trajectory_add_up_to_the_last_probability_less_the_first(logprobs):
    one = replace(trajectory(["a"] * len(logprobs)), gold_logprobs=tuple(logprobs))
    scored = InformationGainReward()(group(one))
    gained = sum(scored.terms["information"][0])
    assert gained == pytest.approx(math.exp(logprobs[-1]) - math.exp(logprobs[0]), abs=1e-15)


@pytest.mark.parametrize("kind", [TurnLevelReward, OutcomeReward])
def test_outcomes_of_the_other_rewards(kind):
    # right; right with one format error; wrong with one format error
    clean, bad = trajectory(answer="42"), trajectory(errors=("unclosed fence", None), answer="42")
    members = group(clean, bad, replace(bad, answer="41"))
    gate = kind(format_rule=FormatRule.gate)(members)
    assert (gate.outcome_terms, gate.outcome_G) == (("accuracy", "shaping", "format"), (1.0, 0.0, 0.0))
    additive = kind(format_rule=FormatRule.additive)(members)
    assert (additive.outcome_terms, additive.outcome_G) == (("accuracy", "shaping"), (1.0, 1.0, 0.0))
    assert kind().gold is None, "nothing is asked of the policy"


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_weight_out_of_range(weight):
    with pytest.raises(ValueError, match=f"information_weight={weight}: expected a finite number >= 0"):
        InformationGainReward(information_weight=weight)


def test_gold_answer_out_of_range():
    with pytest.raises(ValueError, match=r"^max_tokens=0: expected >= 1"):
        GoldAnswer(max_tokens=0)
