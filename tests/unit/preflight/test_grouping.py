"""Groups: what the sampler gives passes, and every way to mistake keys or turns is found."""

from dataclasses import replace
from typing import Any

import pytest

from builders import problem
from turnwise.preflight.finding import Finding, Verdict
from turnwise.preflight.grouping import check_groups
from turnwise.preflight.workers import made_group
from turnwise.rollout.packing import pack
from turnwise.types import Group, ScoredGroup, TokenBatch

PROBLEMS = (problem(id="a"), problem(id="b"))
GROUPS = tuple(made_group(one) for one in PROBLEMS)
ROWS = tuple(tuple((0.5,) * len(one.turns) for one in group.trajectories) for group in GROUPS)


def batch() -> TokenBatch:
    scored = [
        ScoredGroup(group=group, turn_rewards_GK=rows, terms={"none": rows}, correct_G=(False,) * 3)
        for group, rows in zip(GROUPS, ROWS, strict=True)
    ]
    return pack(scored, ROWS, temperature=1.0)


def found(**changes: Any) -> Finding:
    finding = Finding("groups")
    usual = {"groups": GROUPS, "problems": PROBLEMS, "group_size": 3, "advantages": ROWS, "batch": batch()}
    check_groups(**(usual | changes), finding=finding)
    return finding


def test_what_was_sampled_passes():
    assert found().verdict is Verdict.passed
    assert found().lines == ["2 problems x 3 trajectories with 10 turns, of which 10 train"]


def renumbered(group: Group) -> Group:
    return replace(group, trajectories=tuple(replace(one, sample_index=0) for one in group.trajectories))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": GROUPS[::-1]}, "groups of ['b', 'a'] for ['a', 'b']"),
        ({"groups": GROUPS[:1]}, "groups of ['a'] for ['a', 'b']"),
        ({"problems": (PROBLEMS[0],) * 2}, "two problems of a step have one id"),
        ({"group_size": 4}, "samples [0, 1, 2], expected 0 to 3"),
        ({"groups": (renumbered(GROUPS[0]), GROUPS[1])}, "a: samples [0, 0, 0]"),
        ({"advantages": ((*ROWS[0][:2], (0.5, 0.5)), ROWS[1])}, "advantages of [2, 2, 2, 2, 2, 1]"),
        ({"advantages": ((*ROWS[0][:2], (float("nan"),)), ROWS[1])}, "not a finite number"),
        ({"batch": replace(batch(), num_loss_sequences=10)}, "the loss divides by 10"),
        ({"batch": replace(batch(), num_loss_turns=6)}, "10 turns, and the loss divides by 6"),
    ],
)
def test_what_is_mistaken_is_named(changes: dict[str, Any], said: str):
    finding = found(**changes)
    assert finding.verdict is Verdict.failed
    assert any(said in line for line in finding.lines), finding.lines
