from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.task.families.catalog import FAMILIES
from turnwise.task.families.family import Draft, Family
from turnwise.task.generated import GeneratedProblems, draw, is_eval


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(), name=st.sampled_from(sorted(FAMILIES)), held_out=st.booleans())
def test_a_draw_lands_in_the_split_that_was_asked_for(seed: int, name: str, held_out: bool) -> None:
    assert is_eval(draw(FAMILIES[name], Random(seed), held_out=held_out).statement) is held_out


def test_the_split_of_a_statement_never_changes() -> None:
    # Pinned: another hash would move problems that a policy was trained on into its evaluation.
    assert [n for n in range(100, 116) if is_eval(f"Compute {n} * 37 + 915.")] == [100, 101, 104]
    share = sum(is_eval(f"statement {n}") for n in range(8000)) / 8000
    assert share == pytest.approx(1 / 8, abs=0.015)


def test_more_held_out_problems_than_there_are_is_an_error_and_no_endless_search() -> None:
    few = Family(
        name="few",
        draw=lambda rng: Draft(statement=f"{rng.randrange(100)}", answer="0", programs=()),
        skill=1.0,
        slips=(),
    )
    problems = GeneratedProblems("tests", (few,), seed=0)
    there_are = sum(is_eval(str(number)) for number in range(100))
    assert len(problems.eval_problems(there_are)) == there_are
    message = rf"evaluation\.num_problems: tests has no more than {there_are} held-out problems of few"
    with pytest.raises(ValueError, match=message):
        problems.eval_problems(there_are + 1)
