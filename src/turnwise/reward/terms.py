"""The reward of every turn as named terms: what all rewards have in common."""

from collections.abc import Mapping, Sequence

from turnwise.protocols import Similarity
from turnwise.reward.format import FormatRule, format_errors_K, format_term_K
from turnwise.reward.grading import Grader
from turnwise.reward.overlong import OverlongPenalty
from turnwise.reward.shaping import shaping_bonus_G, shaping_peers_G
from turnwise.types import Group, Peers, ScoredGroup, StopReason, Trajectory

Rows = tuple[tuple[float, ...], ...]
"""One reward term, `[G][K]`."""


def check_reward_fields(format_penalty: float, shaping_weight: float) -> None:
    """Raises ValueError unless the hyper-parameters that all rewards share are in range."""
    if not 0 <= format_penalty < float("inf"):
        raise ValueError(f"format_penalty={format_penalty}: expected a finite number >= 0 (it is subtracted)")
    if not 0 <= shaping_weight <= 1:
        raise ValueError(f"shaping_weight={shaping_weight}: expected a number in [0, 1]")


def grade_G(group: Group, grader: Grader) -> tuple[bool, ...]:
    """Which trajectories ended with the right answer; excluded ones and those cut at a limit count as wrong.

    Where the problem has tests, their verdict decides in place of `grader`.

    Raises:
        ValueError: The problem has tests, and nothing ran them on an answer.
    """

    answered = [one.stop_reason is StopReason.answered and not one.is_excluded for one in group.trajectories]
    pairs = list(zip(group.trajectories, answered, strict=True))
    if group.problem.tests:
        return tuple(has_answer and _has_passed(one) for one, has_answer in pairs)
    gold = group.problem.answer
    return tuple(grader.grade_all([(one.answer if has_answer else None, gold) for one, has_answer in pairs]))


def _has_passed(trajectory: Trajectory) -> bool:
    if trajectory.passed is None:
        raise ValueError(f"problem {trajectory.problem_id!r} has tests, which nothing ran on the answer")
    return trajectory.passed


def turn_terms(
    group: Group,
    correct_G: Sequence[bool],
    *,
    format_rule: FormatRule,
    format_penalty: float,
    overlong: OverlongPenalty,
    similarity: Similarity,
    shaping_weight: float,
) -> tuple[dict[str, Rows], tuple[Peers, ...]]:
    """The terms of each turn's reward: `accuracy` and `shaping` on the last turn, `format` where its rule puts it.

    Accuracy and shaping exclude one another. Under the gate a trajectory with a format error gets no shaping: the gate
    would take it away, and this way a group can do without the term. `overlong`, on the last turn, is a term only where
    length costs something, and no format rule touches it. Excluded trajectories get zeros.

    Args:
        group: The trajectories of one problem.
        correct_G: Which of them are correct.
        format_rule: How format errors enter.
        format_penalty: Cost of a turn with a format error under the additive rule.
        overlong: What length costs.
        similarity: Likeness of two programs.
        shaping_weight: Reward of a wrong trajectory with the code of the correct ones; 0 turns shaping off.

    Returns:
        Terms by name, each `[G][K]`, and the siblings that the shaping compared each trajectory with.
    """
    peers_G: tuple[Peers, ...] = ((),) * len(correct_G)
    if shaping_weight > 0:
        peers_G = shaping_peers_G(group.trajectories, correct_G, similarity)
    bonus_G = shaping_bonus_G(peers_G, shaping_weight)
    names = ("accuracy", "shaping", "format", *(("overlong",) if overlong.is_in_use else ()))
    terms: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for trajectory, correct, bonus in zip(group.trajectories, correct_G, bonus_G, strict=True):
        zeros = (0.0,) * len(trajectory.turns)
        if trajectory.is_excluded:
            rows = dict.fromkeys(terms, zeros)
        else:
            accuracy, errors_K = 1.0 if correct else 0.0, format_errors_K(trajectory)
            if format_rule == FormatRule.gate and any(errors_K):
                bonus = 0.0
            rows = {
                "accuracy": (*zeros[1:], accuracy),
                "shaping": (*zeros[1:], bonus),
                "format": format_term_K(format_rule, format_penalty, errors_K, accuracy + bonus),
                "overlong": (*zeros[1:], overlong(trajectory)),
            }
        for name in names:
            terms[name].append(rows[name])
    return {name: tuple(rows) for name, rows in terms.items()}, peers_G


def scored_group(
    group: Group,
    terms: Mapping[str, Rows],
    correct_G: tuple[bool, ...],
    format_rule: FormatRule,
    shaping_peers_G: tuple[Peers, ...],
) -> ScoredGroup:
    """The group with the sum of the terms as the reward of each turn.

    Accuracy, shaping and length judge a trajectory as a whole. So does the format under the gate, which takes the
    outcome away; the penalties of the additive rule judge turns.
    """
    turn_rewards_GK = tuple(
        tuple(sum(values) for values in zip(*rows_K, strict=True)) for rows_K in zip(*terms.values(), strict=True)
    )
    of_outcome = {"accuracy", "shaping", "overlong", *(("format",) if format_rule == FormatRule.gate else ())}
    return ScoredGroup(
        group=group,
        turn_rewards_GK=turn_rewards_GK,
        terms=terms,
        correct_G=correct_G,
        outcome_terms=tuple(name for name in terms if name in of_outcome),
        shaping_peers_G=shaping_peers_G,
    )
