import asyncio
import re
from collections import Counter
from dataclasses import fields
from itertools import islice
from random import Random
from typing import Any

import pytest

from builders import problem
from turnwise.env.calculator import Calculator
from turnwise.task.chain import Chain
from turnwise.task.chain_transcripts import ChainFlaw, ChainFlaws, demonstrate
from turnwise.task.families.family import Draft
from turnwise.types import StepResult
from turnwise.warmstart.demonstrations import demonstrate_all

DRAFT = Draft(
    statement="Start at 37\nA: + 5\nB: * 3\nC: - 8", answer="118", programs=("37 + 5", "<result> * 3", "<result> - 8")
)
RIGHT = ["A 37 + 5 = 42", "B 42 * 3 = 126", "C 126 - 8 = 118"]


def played(flaws: ChainFlaws, seed: int) -> tuple[list[str], tuple[str, ...]]:
    """A demonstration of `DRAFT` against the calculator, `label call = reply` or the answer; and the flaws."""
    demonstration = demonstrate(DRAFT, flaws, Random(seed))
    (one,) = asyncio.run(demonstrate_all([(problem(), demonstration.next_turn)], Calculator().start()))
    return [_line(*pair) for pair in zip(one.turns, one.replies, strict=True)], demonstration.flaws


def _line(turn: str, reply: StepResult) -> str:
    return reply.answer or f"{turn[0]} {reply.tool_calls[0].code} = {reply.messages[0].content}"


def with_one(flaw: ChainFlaw, **values: float) -> list[list[str]]:
    """Demonstrations in which `flaw` happened once and nothing else went wrong."""
    weights = {name.value: 0.0 for name in ChainFlaw} | {"guess": 1e-9, flaw.value: 1.0, "rate": 0.3} | values
    everything = (played(ChainFlaws(**weights), seed) for seed in range(120))
    return [lines for lines, flaws in everything if flaws == (flaw,)]


def test_a_flawless_demonstration_carries_every_result_forward() -> None:
    assert all(played(ChainFlaws(rate=0), seed) == ([*RIGHT, "118"], ()) for seed in range(20))


def test_a_wrong_operand_stands_elsewhere_in_the_expression() -> None:
    lines = with_one(ChainFlaw.wrong_operand)
    assert {tuple(one[:2]) for one in lines if one[0] != RIGHT[0]} <= {
        ("A 37 + 3 = 40", "B 40 * 3 = 120"),
        ("A 37 + 8 = 45", "B 45 * 3 = 135"),
    }
    assert all(len(one) == 4 and one[-1] != "118" for one in lines)


def test_a_wrong_operation_has_the_right_numbers() -> None:
    lines = with_one(ChainFlaw.wrong_operation)
    assert {one[0] for one in lines} == {"A 37 + 5 = 42", "A 37 - 5 = 32", "A 37 * 5 = 185"}
    assert all(one[-1] == one[2].rpartition(" ")[2] for one in lines)


def test_a_skipped_operation_is_never_the_last() -> None:
    assert {tuple(one) for one in with_one(ChainFlaw.skipped)} == {
        ("B 37 * 3 = 111", "C 111 - 8 = 103", "103"),
        ("A 37 + 5 = 42", "C 42 - 8 = 34", "34"),
    }


def test_stopping_early_gives_a_result_on_the_way_for_the_answer() -> None:
    assert {tuple(one) for one in with_one(ChainFlaw.stopped_early)} == {
        ("A 37 + 5 = 42", "42"),
        ("A 37 + 5 = 42", "B 42 * 3 = 126", "126"),
    }


def test_a_guess_has_as_many_digits_as_the_answer_and_ends_at_any_operation() -> None:
    lines = with_one(ChainFlaw.guess)
    assert {len(one) for one in lines} == {1, 2, 3}
    assert all(re.fullmatch(r"\d{3}", one[-1]) for one in lines)


def test_malformed_calls_are_repaired_at_once_or_given_up() -> None:
    repaired, given_up = (with_one(ChainFlaw.malformed, repair=share) for share in (1.0, 0.0))
    assert all([line for line in one if "Error" not in line] == [*RIGHT, "118"] for one in repaired)
    assert all(len(one) == 5 for one in repaired)
    assert all("Error" in one[-2] and one[:-2] == RIGHT[: len(one) - 2] for one in given_up)
    assert {one[-2] for one in given_up if len(one) == 3} == {
        "B 42 * 3 = Error: code block is not closed",
        "B 42 * 3 = Error: unknown tool 'calc', expected 'calculator'",
        "B 42 * = Error: expected one operation",
        "B 42 * 3 - 8 = Error: expected one operation",
    }


def test_operations_go_wrong_independently_so_that_success_falls_with_the_horizon() -> None:
    shares = {}
    for horizon in (2, 8):
        draws = list(islice(Chain(horizon=8, flaws=ChainFlaws(rate=0.2)).demonstrations(0), 7 * 300))
        scripts = [script for script in draws if script[0].source == f"horizon_{horizon}"]
        demonstrations = asyncio.run(demonstrate_all(scripts, Calculator().start()))
        shares[horizon] = sum(one.replies[-1].answer == one.problem.answer for one in demonstrations) / len(scripts)
    # Of 6 flaws, 5 fit the first and the last operation. A malformed call is repaired half of the time, so an operation
    # spoils the answer with probability 0.2 * (1 - 0.5 / 5) = 0.18 there, 0.2 * (1 - 0.5 / 6) = 0.183 between.
    assert shares[2] == pytest.approx(0.82**2, abs=0.08)
    assert shares[8] == pytest.approx(0.82**2 * 0.817**6, abs=0.08)


def test_flaws_happen_at_their_rate_and_by_their_weights() -> None:
    flaws = ChainFlaws(rate=0.3, wrong_operand=2.0, malformed=0.0)
    first = Counter(demonstrate(DRAFT, flaws, Random(seed)).next_turn(None) for seed in range(4000))
    # At the first operation 4 flaws fit with weights 2 + 1 + 1 + 1 = 5; right are 70%, 3 or 8 for 5 are 30% * 2 / 5.
    assert first["A\n```calculator\n37 + 5\n```"] / 4000 == pytest.approx(0.7, abs=0.03)
    wrong = sum(first[f"A\n```calculator\n37 + {operand}\n```"] for operand in (3, 8))
    assert wrong / 4000 == pytest.approx(0.12, abs=0.02)


def test_equal_operands_cannot_be_mistaken_for_one_another() -> None:
    draft = Draft(statement="Start at 5\nA: + 7\nB: + 7", answer="19", programs=("5 + 7", "<result> + 7"))
    weights = {name.value: 0.0 for name in ChainFlaw} | {"guess": 1e-9, "wrong_operand": 1.0, "rate": 1.0}
    assert {demonstrate(draft, ChainFlaws(**weights), Random(seed)).flaws[0] for seed in range(20)} == {ChainFlaw.guess}


def test_each_flaw_has_its_weight() -> None:
    assert {field.name for field in fields(ChainFlaws)} == {"rate", "repair", *ChainFlaw}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 1.5}, r"rate=1.5: expected a number in \[0, 1\]"),
        ({"repair": float("nan")}, r"repair=nan: expected a number in \[0, 1\]"),
        ({"skipped": -1.0}, "skipped=-1.0: expected a finite number >= 0"),
        ({"guess": 0.0}, "guess=0: expected > 0"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChainFlaws(**values)
