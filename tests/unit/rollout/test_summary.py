"""The figures of a step, counted by hand."""

import pytest

from builders import group, trajectory
from turnwise.rollout.summary import summarise
from turnwise.types import ScoredGroup, StopReason


def score(*rows, accuracy, shaping, correct):
    zeros = tuple(tuple(0.0 for _ in t.turns) for t in rows)
    total = tuple(tuple(a + s for a, s in zip(x, y, strict=True)) for x, y in zip(accuracy, shaping, strict=True))
    return ScoredGroup(
        group=group(*rows),
        turn_rewards_GK=total,
        terms={"accuracy": accuracy, "format": zeros, "shaping": shaping},
        correct_G=correct,
    )


def test_figures_by_hand():
    right = trajectory(["a", None], answer="42")
    wrong = trajectory(["a", "b", None], sample_index=1)
    malformed = trajectory(["x"], errors=["not closed"], sample_index=2, stop_reason=StopReason.max_turns)
    failed = trajectory(["a"], sample_index=3, stop_reason=StopReason.tool_infrastructure)
    scored = score(
        right,
        wrong,
        malformed,
        failed,
        accuracy=((0.0, 1.0), (0.0, 0.0, 0.0), (0.0,), (0.0,)),
        shaping=((0.0, 0.0), (0.0, 0.0, 0.25), (0.0,), (0.0,)),
        correct=(True, False, False, False),
    )
    figures = summarise([scored], [[[1.0, 1.0], [0.0, 0.0, -1.0], [0.0], [0.0]]])
    assert figures["rollout/accuracy"] == pytest.approx(1 / 3)  # the failed one is neither right nor wrong
    assert figures["rollout/num_turns"] == pytest.approx((2 + 3 + 1) / 3)
    assert figures["rollout/format_errors"] == pytest.approx(1 / 6)
    assert figures["rollout/tool_use"] == 1.0
    assert figures["rollout/excluded"] == 1 / 4
    assert figures["reward/turn_mean"] == pytest.approx(1.25 / 6)
    assert figures["reward/trajectory_mean"] == pytest.approx(1.25 / 3)
    assert figures["reward/shaping_mean"] == pytest.approx(0.25 / 3)
    assert figures["reward/shaped_fraction"] == pytest.approx(1 / 3)
    assert figures["advantage/zero_groups"] == 0.0
    assert figures["advantage/abs_mean"] == pytest.approx(3 / 7)
    assert figures["stop/answered"] == 2 / 4
    assert figures["stop/tool_infrastructure"] == 1 / 4
    assert figures["stop/max_turns"] == 1 / 4
    assert figures["tool/ok"] == 1.0
    assert figures["tool/calls"] == 4 / 4  # right 1, wrong 2, failed 1; the malformed call ran nothing


def test_zero_groups_counts_groups_without_any_signal():
    one = trajectory([None])
    scored = score(one, accuracy=((0.0,),), shaping=((0.0,),), correct=(False,))
    assert summarise([scored, scored], [[[0.0]], [[0.5]]])["advantage/zero_groups"] == 0.5


def test_no_tool_call_leaves_the_tool_shares_out():
    one = trajectory([None])
    figures = summarise([score(one, accuracy=((0.0,),), shaping=((0.0,),), correct=(False,))], [[[0.0]]])
    assert "tool/ok" not in figures
    assert figures["tool/calls"] == 0.0


def test_a_step_of_failures_has_no_accuracy():
    failed = trajectory(["a"], stop_reason=StopReason.engine_abort)
    figures = summarise([score(failed, accuracy=((0.0,),), shaping=((0.0,),), correct=(False,))], [[[0.0]]])
    assert "rollout/accuracy" not in figures
    assert figures["rollout/excluded"] == 1.0
