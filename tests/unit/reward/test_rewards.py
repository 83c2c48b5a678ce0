"""Both rewards: GTPO's per turn and GRPO's per trajectory, which differ in the level of credit only."""

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import group, problem, trajectory
from turnwise.reward.format import FormatRule, format_errors_K
from turnwise.reward.outcome import OutcomeReward
from turnwise.reward.turn_level import TurnLevelReward
from turnwise.types import Group, StopReason

BAD = "unclosed fence"


@dataclass(frozen=True)
class TableSimilarity:
    """Looks pairs up; a pair that is not in the table fails."""

    table: dict

    def __call__(self, code, other):
        return self.table[code, other]


def right(codes=("print(1)", None), **fields):
    return trajectory(codes, answer="42", **fields)


def wrong(codes=("print(2)", None), **fields):
    return trajectory(codes, answer="41", **fields)


def shaped(reward, table, weight=0.5):
    return replace(reward, shaping=True, shaping_weight=weight, similarity=TableSimilarity(table))


def test_defaults_follow_the_papers():
    turn_level, outcome = TurnLevelReward(), OutcomeReward()
    assert (turn_level.format_rule, outcome.format_rule) == (FormatRule.additive, FormatRule.gate)
    for reward in (turn_level, outcome):
        assert (reward.format_penalty, reward.shaping, reward.shaping_weight) == (0.1, False, 0.5)


def test_turn_level_rewards_by_hand():
    scored = TurnLevelReward()(
        group(
            right(("a", "b", None)),  # 0, 0, 1
            wrong(("a", None)),  # 0, 0
            right((None, None)),  # no call in turn 1: -0.1, then 1
            right((None,)),  # one turn without a call: 1 - 0.1
            right(("a", "b", None), errors=(None, BAD, None)),  # 0, -0.1, 1
            wrong(("a", "b"), errors=(BAD, BAD)),  # -0.1, -0.1: once a turn
        )
    )
    assert scored.turn_rewards_GK == (
        (0.0, 0.0, 1.0),
        (0.0, 0.0),
        (-0.1, 1.0),
        (0.9,),
        (0.0, -0.1, 1.0),
        (-0.1, -0.1),
    )
    assert scored.correct_G == (True, False, True, True, True, False)


def test_outcome_rewards_by_hand():
    trajectories = (
        right(("a", "b", None)),  # min(1, 1)
        wrong(("a", None)),  # min(0, 1)
        right((None, None)),  # min(1, 0)
        right(("a", "b", None), errors=(None, BAD, None)),  # min(1, 0)
        wrong(("a", "b"), errors=(BAD, BAD)),  # min(0, 0)
    )
    gate = OutcomeReward()(group(*trajectories))
    assert gate.turn_rewards_GK == ((0.0, 0.0, 1.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0))
    additive = OutcomeReward(format_rule=FormatRule.additive)(group(*trajectories))
    # 1, 0, 1 - 0.1, 1 - 0.1, 0 - 2 * 0.1
    assert [sum(row) for row in additive.turn_rewards_GK] == [1.0, 0.0, 0.9, 0.9, -0.2]
    assert all(value == 0 for row in additive.turn_rewards_GK for value in row[:-1])


def test_two_bad_calls_in_one_turn_cost_one_penalty():
    from turnwise.types import ToolCall

    bad = wrong(("a", None), errors=(BAD, None))
    first = replace(bad.turns[0], tool_calls=(ToolCall(code="a", error=BAD), ToolCall(code="b", error=BAD)))
    scored = TurnLevelReward()(group(replace(bad, turns=(first, bad.turns[1]))))
    assert scored.turn_rewards_GK == ((-0.1, 0.0),)


def test_the_gate_on_turn_level_is_that_of_the_outcome():
    trajectories = group(right(), right((None, None)), right(("a", None), errors=(BAD, None)), wrong())
    gate = TurnLevelReward(format_rule=FormatRule.gate)(trajectories)
    assert gate == OutcomeReward()(trajectories)
    assert gate.terms["accuracy"] == ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 0.0))
    assert gate.terms["format"] == ((0.0, 0.0), (0.0, -1.0), (0.0, -1.0), (0.0, 0.0))


def test_shaping_by_hand():
    table = {("w", "p"): 0.6, ("w", "q"): 0.2, ("v", "p"): -0.5, ("v", "q"): 0.3}
    trajectories = group(right(("p", None)), right(("q", None)), wrong(("w", None)), wrong(("v", None)))
    scored = shaped(TurnLevelReward(), table)(trajectories)
    # w: 0.5 * (0.6 + 0.2) / 2 = 0.2; v: the negative one counts as 0, 0.5 * (0 + 0.3) / 2 = 0.075
    assert scored.turn_rewards_GK == ((0.0, 1.0), (0.0, 1.0), (0.0, pytest.approx(0.2)), (0.0, pytest.approx(0.075)))
    assert scored.terms["shaping"] == ((0.0, 0.0), (0.0, 0.0), *scored.turn_rewards_GK[2:])
    assert scored.correct_G == (True, True, False, False)
    assert scored.shaping_peers_G == ((), (), ((0, 0.6), (1, 0.2)), ((0, 0.0), (1, 0.3)))


def test_shaping_does_not_shrink_with_the_number_of_peers():
    for num_peers in (1, 2, 8):
        trajectories = group(wrong(("w", None)), *(right(("p", None)) for _ in range(num_peers)))
        scored = shaped(TurnLevelReward(), {("w", "p"): 1.0})(trajectories)
        assert scored.turn_rewards_GK[0] == (0.0, 0.5)


def test_shaping_compares_the_code_of_all_turns_in_order():
    table = {("a\nb", "c\nd"): 1.0}
    trajectories = group(right(("c", "d")), wrong(("a", "bad", "b", None), errors=(None, BAD, None, None)))
    scored = shaped(TurnLevelReward(), table)(trajectories)
    assert scored.turn_rewards_GK[1] == (0.0, -0.1, 0.0, 0.5)


def test_shaped_outcome_goes_through_the_format_rule():
    table = {("w", "p"): 0.8}
    clean, dirty = wrong(("w", None)), wrong(("w", "x"), errors=(None, BAD))
    trajectories = group(right(("p", None)), clean, dirty)
    gate = shaped(OutcomeReward(), table)(trajectories)
    assert gate.turn_rewards_GK == ((0.0, 1.0), (0.0, 0.4), (0.0, 0.0))
    assert gate.terms["shaping"] == ((0.0, 0.0), (0.0, 0.4), (0.0, 0.0))  # nothing is shaped that the gate would take
    assert gate.terms["format"] == ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    additive = shaped(OutcomeReward(format_rule=FormatRule.additive), table)(trajectories)
    assert additive.turn_rewards_GK == ((0.0, 1.0), (0.0, 0.4), (0.0, pytest.approx(0.3)))
    assert additive.terms["shaping"] == ((0.0, 0.0), (0.0, 0.4), (0.0, 0.4))


def test_shaping_without_peers_or_without_code_is_zero():
    nobody_correct = shaped(TurnLevelReward(), {})(group(wrong(), wrong()))
    assert nobody_correct.turn_rewards_GK == ((0.0, 0.0), (0.0, 0.0))
    no_code = shaped(TurnLevelReward(), {})(group(right(), wrong((None, None)), wrong((" ", None))))
    assert no_code.turn_rewards_GK[1:] == ((-0.1, 0.0), (0.0, 0.0))
    assert nobody_correct.shaping_peers_G == ((), ())
    assert no_code.shaping_peers_G == ((), (), ())


@pytest.mark.parametrize("reason", [StopReason.max_turns, StopReason.max_tokens, StopReason.void_turn])
@pytest.mark.parametrize("reward", [TurnLevelReward(), OutcomeReward()])
def test_a_trajectory_cut_at_a_limit_counts_as_wrong(reward, reason):
    trajectories = group(right(("p", None)), right(("w", None), stop_reason=reason))
    scored = shaped(reward, {("w", "p"): 0.8})(trajectories)
    assert scored.correct_G == (True, False)
    assert scored.turn_rewards_GK[1] == (0.0, 0.4)


@pytest.mark.parametrize("reason", [StopReason.tool_infrastructure, StopReason.engine_abort])
@pytest.mark.parametrize("reward", [TurnLevelReward(), OutcomeReward()])
def test_excluded_trajectories_get_zeros_and_are_no_peers(reward, reason):
    broken = right(("p", None), errors=(BAD, None), stop_reason=reason)
    scored = shaped(reward, {})(group(broken, wrong(("w", None))))
    assert scored.turn_rewards_GK == ((0.0, 0.0), (0.0, 0.0))
    assert scored.correct_G == (False, False)
    beside_a_peer = shaped(reward, {("w", "q"): 0.8})(group(broken, wrong(("w", None)), right(("q", None))))
    assert beside_a_peer.turn_rewards_GK == ((0.0, 0.0), (0.0, 0.4), (0.0, 1.0))


@pytest.mark.parametrize("reward", [TurnLevelReward(), OutcomeReward(), shaped(OutcomeReward(), {})])
def test_a_trajectory_without_turns_has_an_empty_row(reward):
    scored = reward(group(right(()), right(("a", None))))
    assert scored.turn_rewards_GK == ((), (0.0, 1.0))
    assert scored.correct_G == (False, True)


def test_no_answer_is_wrong():
    assert TurnLevelReward()(group(trajectory(("a", None), answer=None))).correct_G == (False,)


TRAJECTORIES = st.lists(
    st.builds(
        lambda answer, turns, reason: trajectory(
            [code for code, _ in turns],
            answer=answer,
            errors=[error if code else None for code, error in turns],
            stop_reason=reason,
        ),
        st.sampled_from(["42", "41", None]),
        st.lists(st.tuples(st.sampled_from([None, "x = 1", "print(x)"]), st.sampled_from([None, BAD])), max_size=4),
        st.sampled_from([StopReason.answered, StopReason.max_turns, StopReason.tool_infrastructure]),
    ),
    min_size=1,
    max_size=5,
)
REWARDS = st.builds(
    lambda kind, rule, penalty, shaping: kind(format_rule=rule, format_penalty=penalty, shaping=shaping),
    st.sampled_from([TurnLevelReward, OutcomeReward]),
    st.sampled_from(FormatRule),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.booleans(),
)


@given(TRAJECTORIES, REWARDS)
def test_the_terms_sum_to_the_reward_exactly(trajectories, reward):
    scored = reward(group(*trajectories))
    for g, row in enumerate(scored.turn_rewards_GK):
        for k, value in enumerate(row):
            terms = [rows[g][k] for rows in scored.terms.values()]
            assert value == sum(terms)
            assert not any(term == 0 and math.copysign(1, term) < 0 for term in (value, *terms))


@given(TRAJECTORIES, REWARDS)
def test_shaping_changes_wrong_trajectories_only_and_off_means_off(trajectories, reward):
    members = group(*trajectories)
    off, on = replace(reward, shaping=False)(members), replace(reward, shaping=True)(members)
    assert replace(reward, shaping=True, shaping_weight=0.0)(members) == off
    assert all(value == 0.0 for row in off.terms["shaping"] for value in row)
    assert on.terms["accuracy"] == off.terms["accuracy"]
    assert on.correct_G == off.correct_G
    for row_on, row_off, correct in zip(on.turn_rewards_GK, off.turn_rewards_GK, on.correct_G, strict=True):
        if correct:
            assert row_on == row_off
        else:
            assert sum(row_on) >= sum(row_off)


@given(TRAJECTORIES, REWARDS)
def test_a_group_without_its_shaping_is_the_unshaped_group(trajectories, reward):
    members = group(*trajectories)
    shaped_group = replace(reward, shaping=True)(members)
    unshaped_group = replace(reward, shaping=False)(members)
    assert shaped_group.without("shaping").turn_rewards_GK == unshaped_group.turn_rewards_GK


@given(TRAJECTORIES, st.sampled_from([TurnLevelReward, OutcomeReward]))
def test_the_gate_gives_min_of_shaped_outcome_and_format(trajectories, kind):
    """r = min(r_acc, r_format): the whole shaped outcome without a format error, 0 with one."""
    members = group(*trajectories)
    outcomes = kind(format_rule=FormatRule.additive, format_penalty=0.0, shaping=True)(members).turn_rewards_GK
    gated = kind(format_rule=FormatRule.gate, shaping=True)(members)
    for one, row, outcome in zip(members.trajectories, gated.turn_rewards_GK, outcomes, strict=True):
        assert row == ((0.0,) * len(row) if any(format_errors_K(one)) else outcome)


@given(TRAJECTORIES, REWARDS)
def test_both_levels_give_a_trajectory_the_same_total(trajectories, reward):
    members = group(*trajectories)
    fields = {name: getattr(reward, name) for name in ("format_rule", "format_penalty", "shaping")}
    per_turn, per_trajectory = TurnLevelReward(**fields)(members), OutcomeReward(**fields)(members)
    for turn_row, outcome_row in zip(per_turn.turn_rewards_GK, per_trajectory.turn_rewards_GK, strict=True):
        assert sum(turn_row) == pytest.approx(sum(outcome_row), abs=1e-12)


@given(TRAJECTORIES, REWARDS, st.randoms(use_true_random=False))
def test_the_order_of_siblings_does_not_matter(trajectories, reward, random):
    order = list(range(len(trajectories)))
    random.shuffle(order)
    rewards = reward(group(*trajectories)).turn_rewards_GK
    permuted = reward(group(*(trajectories[g] for g in order))).turn_rewards_GK
    for place, g in enumerate(order):
        assert permuted[place] == pytest.approx(rewards[g], abs=1e-15)


@pytest.mark.parametrize("kind", [TurnLevelReward, OutcomeReward])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_penalty": -0.1}, r"format_penalty=-0.1: expected a finite number >= 0"),
        ({"format_penalty": math.inf}, r"format_penalty=inf"),
        ({"format_penalty": math.nan}, r"format_penalty=nan"),
        ({"shaping_weight": 1.5}, r"shaping_weight=1.5: expected a number in \[0, 1\]"),
        ({"shaping_weight": math.nan}, r"shaping_weight=nan"),
    ],
)
def test_fields_out_of_range(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)


@pytest.mark.parametrize("reward", [TurnLevelReward(), OutcomeReward()])
def test_where_a_problem_has_tests_their_verdict_decides(reward):
    question = replace(problem("42"), tests="check(f)", entry_point="f")
    verdicts = [
        replace(trajectory(("a", None), answer="42", stop_reason=reason), passed=passed)
        for reason, passed in (
            (StopReason.answered, True),
            (StopReason.answered, False),
            (StopReason.max_turns, None),
            (StopReason.tool_infrastructure, None),
        )
    ]
    assert reward(Group(problem=question, trajectories=tuple(verdicts))).correct_G == (True, False, False, False)
    untested = trajectory(("a", None), answer="42")
    with pytest.raises(ValueError, match="problem 'p0' has tests, which nothing ran on the answer"):
        reward(Group(problem=question, trajectories=(untested,)))
