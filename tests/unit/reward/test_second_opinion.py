"""The second grader and math-verify alone, asked through the processes that grade."""

import json
import os
import random
from pathlib import Path

import pytest

from turnwise.reward import grading
from turnwise.reward.grading import Grader
from turnwise.reward.second_opinion import Opinions, second_opinions


@pytest.fixture(scope="module", autouse=True)
def grading_process():
    yield
    grading.close()


@pytest.mark.parametrize(
    ("answer", "gold", "grader", "second", "math_verify"),
    [
        ("8", "8", True, True, True),
        ("9", "8", False, False, False),
        (r"\frac{\sqrt{8}}{2}", r"\sqrt{2}", True, True, True),
        (r"\frac{\sqrt{8}}{3}", r"\sqrt{2}", False, False, False),
        ("52_9", "52_8", False, False, True),  # math-verify drops the base
        (r"14\text{ meters}", r"14\text{ feet}", False, False, True),  # and the units
        (r"\int_0^1 2x\,dx", "1", False, False, True),  # and works out what was asked
        ("x ?? y", r"\sqrt{2}", False, None, None),
        ("a" * 3000, "8", False, None, None),  # too long for all but equal text
    ],
)
def test_three_opinions(answer, gold, grader, second, math_verify):
    expected = Opinions(answer=answer, gold=gold, grader=grader, second=second, math_verify=math_verify)
    assert second_opinions([(answer, gold)], Grader()) == [expected]


@pytest.mark.parametrize(
    ("grader", "second", "math_verify", "disagree"),
    [
        (True, True, True, False),
        (False, None, None, False),
        (False, None, False, False),
        (True, False, True, True),
        (False, False, True, True),
        (True, None, False, True),
    ],
)
def test_who_cannot_read_does_not_disagree(grader, second, math_verify, disagree):
    opinions = Opinions(answer="a", gold="g", grader=grader, second=second, math_verify=math_verify)
    assert opinions.disagree is disagree


def test_opinions_keep_the_order_of_the_pairs():
    pairs = [(f"{number}+1", str(number + 1 + number % 2)) for number in range(30)]
    opinions = second_opinions(pairs, Grader())
    assert [(one.answer, one.gold) for one in opinions] == pairs
    assert [one.grader for one in opinions] == [number % 2 == 0 for number in range(30)]
    assert [one.second for one in opinions] == [number % 2 == 0 for number in range(30)]
    assert second_opinions([], Grader()) == []


def test_gold_answers_of_real_problems_are_no_answers_to_others():
    if "TURNWISE_BENCHMARKS" not in os.environ:
        pytest.skip("TURNWISE_BENCHMARKS names no folder of benchmark files")
    lines = (Path(os.environ["TURNWISE_BENCHMARKS"]) / "math500.jsonl").read_text().splitlines()
    golds = list(dict.fromkeys(json.loads(line)["answer"] for line in lines))
    rng = random.Random(0)
    opinions = second_opinions([(rng.choice(golds), gold) for gold in golds], Grader())
    assert [one for one in opinions if one.disagree] == []
    assert sum(one.second is not None for one in opinions) > 0.95 * len(golds)
    assert [one for one in opinions if one.grader and one.answer != one.gold] == []
