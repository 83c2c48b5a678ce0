import re
from collections.abc import Callable
from random import Random

import pytest

from turnwise.task.families.catalog import FAMILIES
from turnwise.task.families.digits import to_base
from turnwise.task.families.divisibility import is_prime, next_prime
from turnwise.task.families.family import RESULT, Draft, Family, number

Run = Callable[[str], str]
NUM_DRAFTS = 50


def drafts(family: Family) -> list[Draft]:
    rng = Random(f"test {family.name}")
    return [family.draw(rng) for _ in range(NUM_DRAFTS)]


def solve(programs: tuple[str, ...], run: Run) -> str:
    output = ""
    for program in programs:
        output = run(program.replace(RESULT, output))
    return output


every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@every_family
def test_reference_programs_print_the_gold_answer(family: Family, run: Run) -> None:
    for draft in drafts(family):
        assert solve(draft.programs, run) == draft.answer, draft


@every_family
def test_statements_and_programs_are_short_and_answers_are_numbers(family: Family) -> None:
    for draft in drafts(family):
        assert len(draft.statement.split()) <= 14, draft.statement
        assert len(draft.statement) <= 70, draft.statement
        assert re.fullmatch(r"\d{1,12}|-\d{1,11}", draft.answer), draft
        for program in draft.programs:
            assert len(program.split("\n")) <= 5, program
            assert len(program) <= 90, program
            assert program.split("\n")[-1].startswith("print("), program


@every_family
def test_draws_are_diverse_and_a_function_of_the_generator(family: Family) -> None:
    first = drafts(family)
    assert first == drafts(family)
    assert len({draft.statement for draft in first}) >= NUM_DRAFTS - 3
    shapes = {re.sub(r"\d+", "0", "\n".join(draft.programs)) for draft in first}
    assert len(shapes) >= 2, "one way to write the program leaves nothing to compare"


@every_family
def test_the_answer_of_most_drafts_cannot_be_guessed(family: Family) -> None:
    answers = [draft.answer for draft in drafts(family)]
    assert max(map(answers.count, answers)) <= NUM_DRAFTS // 10


@every_family
def test_every_slip_fits_a_program_and_gives_a_wrong_number(family: Family, run: Run) -> None:
    for pattern, replacement in family.slips:
        outputs = []
        for draft in drafts(family)[:30]:
            slipped = [re.sub(pattern, replacement, program) for program in draft.programs]
            for spot, program in enumerate(slipped):
                refused = spot + 1 < len(slipped) and RESULT not in slipped[spot + 1]
                if program != draft.programs[spot] and not refused:
                    programs = (*draft.programs[:spot], program, *draft.programs[spot + 1 :])
                    outputs.append((solve(programs, run), draft.answer))
        assert outputs, f"{pattern} fits no program"
        assert all(re.fullmatch(r"-?\d+", output) for output, _ in outputs), f"{pattern} breaks the program"
        assert sum(output != answer for output, answer in outputs) >= 0.35 * len(outputs), f"{pattern} is harmless"


def test_families_are_many_of_mixed_difficulty_and_named_once() -> None:
    assert len(FAMILIES) >= 10
    assert all(name == family.name for name, family in FAMILIES.items())
    assert all(0 < family.skill < 1 for family in FAMILIES.values())
    assert sum(family.skill >= 0.5 for family in FAMILIES.values()) >= 3
    assert sum(family.skill <= 0.2 for family in FAMILIES.values()) >= 3


def test_some_families_take_a_second_call_after_a_result_and_some_after_an_error(run: Run) -> None:
    carrying, repairing = set(), set()
    for family in FAMILIES.values():
        for draft in drafts(family):
            if len(draft.programs) == 2 and RESULT in draft.programs[1]:
                assert run(draft.programs[0]) != draft.answer
                carrying.add(family.name)
            elif len(draft.programs) == 2:
                assert "Error: " in run(draft.programs[0])
                repairing.add(family.name)
    assert carrying == {"gcd_power", "prime_product", "remainder_digits"}
    assert repairing == {"length", "root_sum"}


def test_number_has_one_of_the_asked_lengths() -> None:
    rng = Random(0)
    assert {len(str(number(rng, 2, 4))) for _ in range(100)} == {2, 4}


def test_own_number_theory() -> None:
    assert [n for n in range(20) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19]
    assert (next_prime(1), next_prime(13), next_prime(24)) == (2, 17, 29)
    assert to_base(4821, 7) == "20025"  # 2 * 7**4 + 0 + 0 + 2 * 7 + 5 = 4802 + 19


def test_length_is_exact() -> None:
    for draft in drafts(FAMILIES["length"]):
        base, exponent = map(int, re.findall(r"\d+", draft.statement))
        assert 10 ** (int(draft.answer) - 1) <= base**exponent < 10 ** int(draft.answer)
