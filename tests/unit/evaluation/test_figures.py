"""Rates and shares of made trajectories, each by hand."""

from dataclasses import replace

import pytest

from builders import group, problem, trajectory
from turnwise.evaluation.figures import by_source, by_turns, questions, rates_of, shares_of
from turnwise.types import Group, ScoredGroup, StopReason, ToolResult, ToolStatus, Trajectory


def scored(one: Group, *correct: bool) -> ScoredGroup:
    zeros = tuple((0.0,) * len(t.turns) for t in one.trajectories)
    return ScoredGroup(group=one, turn_rewards_GK=zeros, terms={}, correct_G=correct)


def failed_call(one: Trajectory, status: ToolStatus) -> Trajectory:
    first, *rest = one.turns
    return replace(one, turns=(replace(first, tool_result=ToolResult(status=status, output="", wall_s=0.1)), *rest))


def rates(*groups: ScoredGroup) -> dict[str, float]:
    return rates_of(groups, questions(groups))


def test_calls_that_do_not_end_well_and_malformed_ones():
    well = trajectory(("print(1)", None), answer="42")
    badly = failed_call(trajectory(("print(1)", None), answer="1", sample_index=1), ToolStatus.timeout)
    malformed = trajectory(("x", None), errors=("not closed", None), answer="1", sample_index=2)
    figures = rates(scored(group(well, badly, malformed), True, False, False))
    assert figures["tool_errors"] == 0.5  # of two executed calls
    assert figures["format_errors"] == pytest.approx(1 / 6)  # of six turns
    assert figures["tool_use"] == 1.0


def test_no_executed_call_is_no_share_of_errors():
    assert "tool_errors" not in rates(scored(group(trajectory((None,), answer="42")), True))


@pytest.mark.parametrize("reason", [StopReason.max_turns, StopReason.max_tokens])
def test_every_limit_counts_as_cut(reason):
    cut = trajectory((None,), stop_reason=reason, sample_index=1)
    figures = rates(scored(group(trajectory((None,), answer="42"), cut), True, False))
    assert figures["truncated"] == 0.5
    assert figures["answered"] == 0.5


def test_a_prompt_that_leaves_no_room_is_cut_and_wrong_and_stays_in_the_mean():
    none = trajectory((), stop_reason=StopReason.prompt_too_long, sample_index=1)
    asked = questions([scored(group(trajectory((None,), answer="42"), none), True, False)])
    assert asked[0].accuracy == 0.5
    figures = rates(scored(group(trajectory((None,), answer="42"), none), True, False))
    assert figures["truncated"] == 0.5
    assert figures["excluded"] == 0.0


def test_a_void_turn_is_wrong_and_not_cut():
    void = trajectory((None,), stop_reason=StopReason.void_turn)
    figures = rates(scored(group(void), False))
    assert (figures["truncated"], figures["answered"]) == (0.0, 0.0)


def test_programs_have_no_majority():
    tested = replace(problem(), tests="assert f() == 1", entry_point="f")
    pair = tuple(trajectory((None,), answer="42", sample_index=index) for index in range(2))
    shares = shares_of(questions([scored(Group(problem=tested, trajectories=pair), True, False)]), [2])
    assert "pass@2" in shares
    assert "majority@2" not in shares


def test_pass_at_k_widens_with_fewer_problems_not_with_fewer_samples():
    rights = [[True] + [False] * 3, [False] * 4, [True] * 4]
    groups = [
        scored(group(*(trajectory((None,), problem_id=str(p), sample_index=i) for i in range(4)), id=str(p)), *right)
        for p, right in enumerate(rights)
    ]
    shares = shares_of(questions(groups), [2])
    # 1 - C(3,2)/C(4,2) = 1/2, 0 and 1
    assert shares["pass@2"].value == pytest.approx(0.5)
    assert shares["pass@2"].num_problems == 3


def test_sources_and_turns():
    easy = scored(group(trajectory((None,), answer="42", problem_id="a"), id="a"), True)
    hard = scored(group(trajectory(("print(1)", None), problem_id="b"), id="b"), False)
    asked = questions([easy, hard])
    assert [share.value for share in by_source(asked).values()] == [0.5]
    shares, counts = by_turns(asked)
    assert {turns: share.value for turns, share in shares.items()} == {1: 1.0, 2: 0.0}
    assert counts == {1: 1, 2: 1}
