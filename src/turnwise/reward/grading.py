"""Decides whether an answer equals the gold answer: text first, then exact numbers, values, and math-verify."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from turnwise.reward.answers import compare, last_box, needs_no_algebra
from turnwise.reward.grading_pool import Question, ask_all, close
from turnwise.types import Problem

__all__ = ["Grader", "close", "ungradable"]

logger = logging.getLogger(__name__)

_MAX_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Grader:
    """Compares final answers with gold answers; safe against hanging and hostile answers, and in any thread.

    Equal text and plain numbers are decided at once and exactly (`turnwise.reward.answers`, which says what counts as
    equal). The rest is read as mathematics, in processes of their own: formulas that our grammar can read are compared
    by value (`turnwise.reward.second_reading`), the others by math-verify. There is one process for each core at most.
    They start with the first such answers, are replaced after an answer has ended them, and end with this process.
    """

    timeout_s: float = 2.0
    """Processor time, in seconds, that one comparison may take; an answer that needs more is wrong."""
    max_characters: int = 2000
    """Length beyond which only equal text makes an answer correct."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= _MAX_TIMEOUT_S:
            raise ValueError(f"timeout_s={self.timeout_s}: expected > 0 and <= {_MAX_TIMEOUT_S:g} seconds")
        if not 1 <= self.max_characters <= 4000:
            raise ValueError(f"max_characters={self.max_characters}: expected 1 to 4000")

    def __call__(self, answer: str | None, gold: str) -> bool:
        """Whether `answer` equals `gold`; a missing answer does not.

        Raises:
            RuntimeError: The grading process failed twice for a reason that is not the answer's. Such an answer is
                never scored as wrong.
        """
        return self.grade_all([(answer, gold)])[0]

    def grade_all(self, pairs: Sequence[tuple[str | None, str]] | Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the answer equals the gold answer, for each pair of the two; all cores take part.

        Raises:
            RuntimeError: As above.
        """
        verdicts: list[bool] = [False] * len(pairs)
        places: list[int] = []
        questions: list[Question] = []
        for place, (answer, gold) in enumerate(pairs):
            found = self._by_text(answer, gold)
            if isinstance(found, Question):
                places.append(place)
                questions.append(found)
            else:
                verdicts[place] = found
        for place, question, verdict in zip(places, questions, ask_all(questions), strict=True):
            if verdict is None:
                logger.warning(
                    "math-verify cannot read the gold answer %.80r: only equal text is correct", question.gold
                )
            verdicts[place] = bool(verdict)
        return verdicts

    def _by_text(self, answer: str | None, gold: str) -> bool | Question:
        """A verdict, or what to ask where text and plain numbers give none."""
        if answer is None:
            return False
        if max(len(answer), len(gold)) > self.max_characters:
            return answer.strip() == gold.strip()
        comparison = compare(last_box(answer), last_box(gold))
        if comparison.verdict is not None:
            return comparison.verdict
        return Question("grader", comparison.answer, comparison.gold, self.timeout_s)


def ungradable(problems: Sequence[Problem], grader: Grader) -> list[Problem]:
    """The problems whose gold answer does not grade itself correct or can be matched word for word only.

    A gold answer is gradable if it is a plain number or words, or else if math-verify reads it and takes it for
    itself. Thousands take seconds, since plain numbers and words are not sent anywhere.
    """
    golds = {problem.answer: last_box(problem.answer) for problem in problems}
    boxed = [rf"\boxed{{{gold}}}" for gold in golds.values()]
    bad = {
        gold
        for gold, is_itself in zip(golds, grader.grade_all(list(zip(boxed, golds, strict=True))), strict=True)
        if not is_itself or len(gold) > grader.max_characters
    }
    asked = [gold for gold, bare in golds.items() if gold not in bad and not needs_no_algebra(bare)]
    questions = [Question("reads", golds[gold], golds[gold], grader.timeout_s) for gold in asked]
    bad |= {gold for gold, is_read in zip(asked, ask_all(questions), strict=True) if not is_read}
    return [problem for problem in problems if problem.answer in bad]
