"""Format errors of a trajectory and the reward term that they cause, under either rule."""

from collections.abc import Sequence
from enum import StrEnum

from turnwise.types import Trajectory


class FormatRule(StrEnum):
    """What a format error does to the reward.

    `gate`: one error anywhere makes the outcome 0, r = min(r_acc, r_format) with both in [0, 1] (GRPO; PAPER.md
    section 2, [R]). `additive`: every turn with an error costs a penalty, r = r_acc + r_format (GTPO; [R, 3]).
    """

    gate = "gate"
    additive = "additive"


def format_errors_K(trajectory: Trajectory) -> tuple[bool, ...]:
    """Which turns have a format error: a malformed tool call, or a first turn that calls no tool at all.

    An exception raised by well-formed code is no format error, and a later turn without a call is how a trajectory
    ends (PAPER.md section 2, [O]).
    """
    return tuple(
        turn.has_format_error or (index == 0 and not turn.tool_calls) for index, turn in enumerate(trajectory.turns)
    )


def format_term_K(rule: FormatRule, penalty: float, errors_K: Sequence[bool], outcome: float) -> tuple[float, ...]:
    """What the format adds to the reward of each turn, for a trajectory of at least one turn.

    Args:
        rule: `additive` puts `-penalty` on each turn with an error; `gate` puts `-outcome` on the last turn if any
            turn has an error, so that outcome and format sum to min(outcome, r_format) exactly.
        penalty: Cost of a turn with an error; the gate has no use for it.
        errors_K: Whether turn k has a format error.
        outcome: Accuracy of the trajectory, shaped or not, in [0, 1].

    Returns:
        One term a turn.
    """
    if rule == FormatRule.additive:
        return tuple(0.0 - penalty if error else 0.0 for error in errors_K)  # not -penalty, which may be -0.0
    return (0.0,) * (len(errors_K) - 1) + (0.0 - outcome if any(errors_K) else 0.0,)
