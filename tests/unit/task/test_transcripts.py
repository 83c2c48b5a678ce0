import re
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from enum import StrEnum
from random import Random
from typing import Any

import pytest

from turnwise.task.families.catalog import FAMILIES, WARM_START_FAMILIES
from turnwise.task.families.family import Draft, Family
from turnwise.task.transcripts import Demonstration, Flaw, Flaws, demonstrate, guess_like

Run = Callable[[str], str]

# One number in each program, an import, a slip: every flaw fits.
DRAFT = Draft(
    statement="What?",
    answer="120",
    programs=("import math\nprint(math.factorial(1 + 4))", "print(10 * <result> // 10)"),
)
FAMILY = Family(name="test", draw=lambda rng: DRAFT, skill=0.25, slips=((r"factorial", "sqrt"), (r"\*", "+")))


def only(flaw: Flaw, **values: float) -> Flaws:
    weights = {name.value: 0.0 for name in Flaw} | {"guess": 1e-9, flaw.value: 1.0}
    return Flaws(**{**weights, **values})


def play(demonstration: Demonstration, run: Run) -> list[str]:
    """The assistant turns, with the tool's real replies between them."""
    turns: list[str] = []
    output: str | None = None
    while (turn := demonstration.next_turn(output)) is not None:
        turns.append(turn)
        block = re.search(r"```python\n(.*?)\n```", turn, re.DOTALL)
        output = run(block[1]) if block else "FormatError: no complete python block"
    return turns


def codes(turns: list[str]) -> list[str]:
    return re.findall(r"```(?:py|python)\n(.*?)(?:\n```|\Z)", "\0".join(turns).replace("\0", "\n```\n"), re.DOTALL)


def flawed(flaw: Flaw, run: Run, *, family: Family = FAMILY, draft: Draft = DRAFT, **values: float) -> list[list[str]]:
    flawed_family = replace(family, skill=0.0)
    return [play(demonstrate(flawed_family, draft, only(flaw, **values), Random(seed)), run) for seed in range(40)]


def test_flawless_demonstration_carries_results_forward(run: Run) -> None:
    for seed in range(20):
        turns = play(demonstrate(FAMILY, DRAFT, Flaws(rate=0), Random(seed)), run)
        assert len(turns) == 3
        assert "```python\nimport math\nprint(math.factorial(1 + 4))\n```" in turns[0]
        assert "```python\nprint(10 * 120 // 10)\n```" in turns[1]
        assert turns[2] in ("\\boxed{120}", "The answer is \\boxed{120}.")


def test_openings_are_at_most_six_words(run: Run) -> None:
    openings = {turn.split("```")[0] for turns in flawed(Flaw.miscopied, run) for turn in turns if "```" in turn}
    assert "" in openings
    assert len(openings) >= 3
    assert all(len(opening.split()) <= 6 for opening in openings)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_flawless_demonstrations_of_every_family_end_with_the_gold_answer(family: Family, run: Run) -> None:
    rng = Random(1)
    for _ in range(10):
        draft = family.draw(rng)
        turns = play(demonstrate(family, draft, Flaws(rate=0), rng), run)
        assert f"\\boxed{{{draft.answer}}}" in turns[-1]
        assert len(turns) == len(draft.programs) + 1


def test_guess_answers_at_once(run: Run) -> None:
    for turns in flawed(Flaw.guess, run):
        assert len(turns) == 1
        assert re.search(r"\\boxed\{\d{3}\}", turns[0])


def test_stopped_early_boxes_the_first_result(run: Run) -> None:
    draft = replace(DRAFT, programs=("print(7)", "print(<result> + 113)"))
    for turns in flawed(Flaw.stopped_early, run, draft=draft):
        assert len(turns) == 2
        assert "\\boxed{7}" in turns[1]


def test_stopped_early_guesses_when_the_first_call_fails_by_nature(run: Run) -> None:
    draft = replace(DRAFT, programs=("print(1 / 0)", "print(120)"))
    for turns in flawed(Flaw.stopped_early, run, draft=draft):
        assert len(turns) == 2
        assert re.search(r"\\boxed\{\d{3}\}", turns[1])


def test_missing_import_raises_and_is_repaired(run: Run) -> None:
    for turns in flawed(Flaw.missing_import, run, repair=1.0):
        if len(turns) == 1:  # The flaw was to hit the second call, which imports nothing: a guess is all that fits.
            continue
        first, second, *_ = codes(turns)
        assert run(first).startswith("NameError")
        assert second == DRAFT.programs[0]
        assert "\\boxed{120}" in turns[-1]
        assert len(turns) == 4


def test_not_printed_is_seen_and_repaired_or_given_up(run: Run) -> None:
    repaired = flawed(Flaw.not_printed, run, repair=1.0)
    assert all("\\boxed{120}" in turns[-1] and len(turns) == 4 for turns in repaired)
    assert all("(no output)" in [run(code) for code in codes(turns)] for turns in repaired)
    for turns in flawed(Flaw.not_printed, run, repair=0.0):
        assert run(codes(turns)[-1]) == "(no output)"
        assert "boxed" in turns[-1]
        assert len(turns) in (2, 3)


def test_malformed_fence_is_unclosed_or_of_another_language(run: Run) -> None:
    repaired = flawed(Flaw.malformed_fence, run, repair=1.0)
    broken = [
        turn for turns in repaired for turn in turns if "```" in turn and not re.search(r"python\n.*\n```", turn, re.S)
    ]
    assert len(broken) == len(repaired)
    assert {"```py\n" in turn for turn in broken} == {True, False}
    assert {turn.count("```") for turn in broken} == {1, 2}
    assert all("\\boxed{120}" in turns[-1] for turns in repaired)


def test_repair_happens_at_its_rate(run: Run) -> None:
    lengths = [len(turns) for turns in flawed(Flaw.malformed_fence, run, repair=0.5)]
    assert 10 <= sum(length == 4 for length in lengths) <= 30  # 20 expected of 40, standard deviation 3.2


def test_silent_flaws_end_in_a_wrong_answer(run: Run) -> None:
    draft = replace(DRAFT, programs=("print(31 * 17)",), answer="527")
    for turns in flawed(Flaw.wrong_operation, run, draft=draft):
        assert codes(turns) == ["print(31 + 17)"]
        assert "\\boxed{48}" in turns[-1]
    for turns in flawed(Flaw.miscopied, run, draft=draft):
        left, right = re.findall(r"\d+", codes(turns)[0])
        assert [left == "31", right == "17"].count(False) == 1
        assert f"\\boxed{{{int(left) * int(right)}}}" in turns[-1]


def test_a_turn_that_lacks_a_result_gives_up_instead_of_quoting_an_error() -> None:
    demonstration = Demonstration(["call", "\\boxed{<result>}", "never"], give_up="\\boxed{5}")
    assert demonstration.next_turn(None) == "call"
    assert demonstration.next_turn("ValueError: 12") == "\\boxed{5}"
    assert demonstration.next_turn("anything") is None


def test_an_empty_output_does_not_hide_the_result_before_it() -> None:
    demonstration = Demonstration(["a", "b", "\\boxed{<result>}"], give_up="")
    assert [demonstration.next_turn(output) for output in (None, "-12\n", "(no output)")] == ["a", "b", "\\boxed{-12}"]


def test_flawless_share_is_the_familys_skill_and_flaws_follow_their_weights() -> None:
    draft = replace(DRAFT, programs=("import math\nprint(math.factorial(1 + 4) * 10 // 10)",))
    flaws = Flaws(guess=1, missing_import=2, not_printed=1, malformed_fence=1, wrong_operation=2, miscopied=1)
    counts = Counter(demonstrate(FAMILY, draft, flaws, Random(seed)).flaws for seed in range(4000))
    assert (Flaw.stopped_early,) not in counts  # One call only: the flaw does not fit.
    assert counts[()] / 4000 == pytest.approx(0.25, abs=0.03)
    for flaw, weight in {Flaw.guess: 1, Flaw.missing_import: 2, Flaw.wrong_operation: 2, Flaw.miscopied: 1}.items():
        assert counts[flaw,] / 4000 == pytest.approx(0.75 * weight / 8, abs=0.025)  # The weights that fit sum to 8.


def test_rate_scales_the_flawed_share() -> None:
    halved = Flaws(rate=0.5)
    flawless = sum(not demonstrate(FAMILY, DRAFT, halved, Random(seed)).flaws for seed in range(2000))
    assert flawless / 2000 == pytest.approx(1 - 0.5 * 0.75, abs=0.04)


def test_every_flaw_occurs_and_transcripts_stay_short(run: Run) -> None:
    rng = Random(3)
    seen, right = Counter[tuple[StrEnum, ...]](), 0
    for family in 25 * [FAMILIES[name] for name in WARM_START_FAMILIES]:
        draft = family.draw(rng)
        demonstration = demonstrate(family, draft, Flaws(), rng)
        turns = play(demonstration, run)
        seen[demonstration.flaws] += 1
        right += f"\\boxed{{{draft.answer}}}" in turns[-1]
        assert 1 <= len(turns) <= 4
        assert sum(map(len, turns)) <= 400
        assert not any("Error" in turn or "no output" in turn or "<result>" in turn for turn in turns)
        assert re.search(r"\\boxed\{-?\d+\}", turns[-1])
    assert set(seen) == {(), *((flaw,) for flaw in Flaw)}
    assert 0.3 < right / seen.total() < 0.6, "the warm start would leave nothing, or everything, to learn"


def test_guess_is_as_long_as_the_answer() -> None:
    rng = Random(0)
    assert {len(guess_like("-482", rng)) for _ in range(50)} == {3}
    assert {len(guess_like("7", rng)) for _ in range(50)} == {1}


def test_each_flaw_has_its_weight() -> None:
    assert {field.name for field in fields(Flaws)} == {"rate", "repair", *Flaw}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 1.5}, r"rate=1.5: expected a number in \[0, 1\]"),
        ({"repair": -0.1}, r"repair=-0.1: expected a number in \[0, 1\]"),
        ({"repair": float("nan")}, "repair=nan"),
        ({"miscopied": -1.0}, "miscopied=-1.0: expected a finite number >= 0"),
        ({"guess": 0.0}, "guess=0: expected > 0"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Flaws(**values)
