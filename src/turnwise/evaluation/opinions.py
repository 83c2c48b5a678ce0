"""What two other graders say of an evaluation's answers, and where they disagree."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from turnwise.evaluation.figures import Question
from turnwise.reward.grading import Grader
from turnwise.reward.second_opinion import Opinions, second_opinions
from turnwise.tracker.atomic import write_atomically
from turnwise.types import ScoredGroup, StopReason


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One answer with the three verdicts on it."""

    problem_id: str
    sample_index: int
    opinions: Opinions


def judge(scored_groups: Sequence[ScoredGroup], grader: Grader) -> list[Judged]:
    """Asks all graders about every answer that is compared with a gold answer; tests of programs are not compared."""
    asked = [
        (scored.group.problem, one)
        for scored in scored_groups
        for one in scored.group.trajectories
        if one.stop_reason is StopReason.answered and one.answer is not None and not scored.group.problem.tests
    ]
    opinions = second_opinions([(one.answer or "", problem.answer) for problem, one in asked], grader)
    return [
        Judged(problem_id=problem.id, sample_index=one.sample_index, opinions=said)
        for (problem, one), said in zip(asked, opinions, strict=True)
    ]


def opinion_rates(judged: Sequence[Judged], asked: Sequence[Question]) -> dict[str, float]:
    """How often the second grader and math-verify disagree, how often one cannot read, and accuracy by each.

    `disagreement` is over the answers that both can read, `unread` the share of answers that one of them cannot;
    `accuracy_second` and `accuracy_math_verify` are over all trajectories that count, an unread answer being wrong.
    """
    if not judged:
        return {}
    pairs = [(one.opinions.second, one.opinions.math_verify) for one in judged]
    read = [second is not math_verify for second, math_verify in pairs if None not in (second, math_verify)]
    counted = sum(len(question.trajectories) for question in asked)
    rates = {"disagreement": sum(read) / len(read)} if read else {}
    return rates | {
        "unread": 1 - len(read) / len(judged),
        "accuracy_second": sum(second is True for second, _ in pairs) / counted,
        "accuracy_math_verify": sum(math_verify is True for _, math_verify in pairs) / counted,
    }


def write_disagreements(path: Path, judged: Sequence[Judged]) -> None:
    """Writes one JSON line for every answer on which the verdicts differ, whole or not at all; none, an empty file."""
    lines = [json.dumps(_row(one), ensure_ascii=False) + "\n" for one in judged if one.opinions.disagree]
    write_atomically(path, "".join(lines).encode("utf-8", "surrogatepass"))


def _row(one: Judged) -> dict[str, Any]:
    return {"problem_id": one.problem_id, "sample_index": one.sample_index, **asdict(one.opinions)}
