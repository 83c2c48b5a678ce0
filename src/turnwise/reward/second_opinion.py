"""Two more opinions on graded answers, so that an evaluation can say how often graders disagree.

The second grader is exact numbers and sympy: what text and plain numbers do not decide is read by our own grammar
(`turnwise.reward.latex_reading`) and compared by value, and math-verify has no part in it. Math-verify's opinion is
that of the library alone, on the answer as it was given, with nothing of ours. The grader that counts takes the
second's word where both answers were read and are of one kind, and math-verify's elsewhere; so it is the disagreement
of the last two that says how much the choice of a grader matters. All run in the same guarded processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from turnwise.reward.answers import compare, last_box
from turnwise.reward.grading import Grader
from turnwise.reward.grading_pool import Question, ask_all


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """What three graders say of one answer."""

    answer: str
    gold: str
    grader: bool
    """The verdict that counts."""
    second: bool | None
    """Exact numbers and sympy; None where it cannot read answer or gold."""
    math_verify: bool | None
    """Math-verify alone; None where it cannot read answer or gold."""

    @property
    def disagree(self) -> bool:
        """Whether two of them that can read the answer say different things."""
        return len({self.grader, self.second, self.math_verify} - {None}) > 1


def second_opinions(pairs: Sequence[tuple[str, str]], grader: Grader) -> list[Opinions]:
    """Three opinions on each pair of answer and gold answer; all cores take part, and equal pairs are asked once.

    Raises:
        RuntimeError: The grading process failed twice for a reason that is not the answer's.
    """
    verdicts = grader.grade_all(pairs)
    short = [place for place, pair in enumerate(pairs) if max(map(len, pair)) <= grader.max_characters]
    boxes = {place: (last_box(pairs[place][0]), last_box(pairs[place][1])) for place in short}
    compared = {place: compare(*boxes[place]) for place in short}
    second: dict[int, bool | None] = {place: compared[place].verdict for place in short}
    asked = [place for place in short if second[place] is None]
    questions = [
        Question("second", compared[place].answer, compared[place].gold, grader.timeout_s) for place in asked
    ] + [Question("math_verify", *boxes[place], grader.timeout_s) for place in short]
    answers = ask_all(questions)
    second |= dict(zip(asked, answers[: len(asked)], strict=True))
    alone = dict(zip(short, answers[len(asked) :], strict=True))
    return [
        Opinions(
            answer=answer, gold=gold, grader=verdicts[place], second=second.get(place), math_verify=alone.get(place)
        )
        for place, (answer, gold) in enumerate(pairs)
    ]
