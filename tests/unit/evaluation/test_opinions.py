"""What is made of three verdicts: rates by hand, and the lines that are written for reading."""

import json

import pytest

from builders import trajectory
from turnwise.evaluation.figures import Question
from turnwise.evaluation.opinions import Judged, opinion_rates, write_disagreements
from turnwise.reward.second_opinion import Opinions


def judged(grader: bool, second: bool | None, math_verify: bool | None, index: int = 0) -> Judged:
    said = Opinions(answer="1/2", gold="0.5", grader=grader, second=second, math_verify=math_verify)
    return Judged(problem_id="p", sample_index=index, opinions=said)


FIVE = [
    judged(True, True, True),
    judged(True, True, False),
    judged(False, False, True),
    judged(True, None, True),
    judged(False, False, None),
]
ASKED = [Question("p", "s", (trajectory((None,)),) * 10, (False,) * 10)]
"""Ten trajectories, half of which gave no answer."""


def test_rates():
    assert opinion_rates(FIVE, ASKED) == {
        "disagreement": pytest.approx(2 / 3),  # of the three that both can read
        "unread": pytest.approx(2 / 5),
        "accuracy_second": 2 / 10,
        "accuracy_math_verify": 3 / 10,
    }


def test_where_nobody_can_read_there_is_no_disagreement():
    assert "disagreement" not in opinion_rates([judged(False, None, None)], ASKED)
    assert opinion_rates([], ASKED) == {}


def test_every_difference_is_written_and_nothing_else(tmp_path):
    path = tmp_path / "disagreements.jsonl"
    write_disagreements(path, [*FIVE, judged(True, None, False, 7), judged(False, None, None)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["grader"], row["second"], row["math_verify"]) for row in rows] == [
        (True, True, False),
        (False, False, True),
        (True, None, False),
    ]
    assert rows[-1] == {
        "problem_id": "p",
        "sample_index": 7,
        "answer": "1/2",
        "gold": "0.5",
        "grader": True,
        "second": None,
        "math_verify": False,
    }
