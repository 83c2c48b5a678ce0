import json
from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.protocols import Task
from turnwise.task.arithmetic import Arithmetic, draw, is_eval
from turnwise.task.families.catalog import FAMILIES, WARM_START_FAMILIES
from turnwise.types import Problem


def statements(problems: list[Problem]) -> list[str]:
    return [problem.prompt[0].content for problem in problems]


def test_train_and_eval_are_disjoint() -> None:
    task: Task = Arithmetic(families=[]).start(0)
    train, held_out = statements(task.next_batch(3000)), statements(task.eval_problems(600))
    assert not any(map(is_eval, train))
    assert all(map(is_eval, held_out))
    assert not set(train) & set(held_out)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(), name=st.sampled_from(sorted(FAMILIES)), held_out=st.booleans())
def test_a_draw_lands_in_the_split_that_was_asked_for(seed: int, name: str, held_out: bool) -> None:
    assert is_eval(draw(FAMILIES[name], Random(seed), held_out=held_out).statement) is held_out


def test_the_split_of_a_statement_never_changes() -> None:
    # Pinned: another hash would move problems that a policy was trained on into its evaluation.
    assert [n for n in range(100, 116) if is_eval(f"Compute {n} * 37 + 915.")] == [100, 101, 104]
    share = sum(is_eval(f"statement {n}") for n in range(8000)) / 8000
    assert share == pytest.approx(1 / 8, abs=0.015)


def test_warm_start_problems_come_from_the_train_side_and_are_not_the_train_problems() -> None:
    drafts = list(islice(Arithmetic(families=[]).warm_start_problems(0), 480))
    assert not any(is_eval(draft.statement) for _, _, draft in drafts)
    assert Counter(family.name for _, family, _ in drafts) == dict.fromkeys(FAMILIES, 480 // len(FAMILIES))
    assert all(problem.answer == draft.answer for problem, _, draft in drafts)
    train = set(statements(Arithmetic(families=[]).start(0).next_batch(480)))
    assert len(train & {draft.statement for _, _, draft in drafts}) <= 5


def test_train_problems_are_a_function_of_seed_and_index() -> None:
    whole, pieces = Arithmetic(families=[]).start(7), Arithmetic(families=[]).start(7)
    together = whole.next_batch(40)
    assert together == pieces.next_batch(1) + pieces.next_batch(32) + pieces.next_batch(7)
    assert together != Arithmetic(families=[]).start(8).next_batch(40)
    assert [problem.id for problem in together[:2]] == ["arithmetic/train/0", "arithmetic/train/1"]


def test_eval_problems_are_balanced_distinct_and_the_same_for_every_seed() -> None:
    some = Arithmetic(families=[]).start(0).eval_problems(10 * len(FAMILIES))
    assert some == Arithmetic(families=[]).start(1).eval_problems(10 * len(FAMILIES))
    assert some[:17] == Arithmetic(families=[]).start(0).eval_problems(17)
    assert len(set(statements(some))) == len({problem.id for problem in some}) == len(some)
    assert Counter(problem.source for problem in some) == dict.fromkeys(FAMILIES, 10)


def test_a_train_batch_of_all_families_holds_each_once_in_varying_order() -> None:
    task = Arithmetic(families=[]).start(0)
    orders = [tuple(problem.source for problem in task.next_batch(len(FAMILIES))) for _ in range(3)]
    assert all(sorted(order) == sorted(FAMILIES) for order in orders)
    assert len(set(orders)) == 3


def test_resume_goes_on_where_the_state_was_taken() -> None:
    task = Arithmetic(families=[]).start(5)
    task.next_batch(13)
    state = json.loads(json.dumps(task.state_dict()))
    resumed = Arithmetic(families=[]).start(5)
    resumed.load_state_dict(state)
    assert resumed.next_batch(20) == task.next_batch(20)
    assert resumed.state_dict() == task.state_dict()


def test_a_state_of_another_task_is_refused() -> None:
    state = Arithmetic(families=[]).start(5).state_dict()
    with pytest.raises(ValueError, match="task state of seed=5 does not fit this task's 6"):
        Arithmetic(families=[]).start(6).load_state_dict(state)
    with pytest.raises(ValueError, match="task state of families="):
        Arithmetic(families=["gcd"]).start(5).load_state_dict(state)


def test_chosen_families_keep_their_eval_problems() -> None:
    gcd_only = Arithmetic(families=["gcd"]).start(0).eval_problems(5)
    among_all = Arithmetic(families=[]).start(0).eval_problems(5 * len(FAMILIES))
    assert statements(gcd_only) == statements([problem for problem in among_all if problem.source == "gcd"])


def test_unknown_and_repeated_families_are_refused() -> None:
    with pytest.raises(ValueError, match=r"task.families holds 'gdc': expected one of expression, .*gcd"):
        Arithmetic(families=["gcd", "gdc"])
    with pytest.raises(ValueError, match=r"task.families=\['gcd', 'gcd'\]: expected each family once"):
        Arithmetic(families=["gcd", "gcd"])


def test_the_default_families_are_those_of_the_warm_start() -> None:
    sources = {problem.source for problem in Arithmetic().start(0).eval_problems(100)}
    assert sources == set(WARM_START_FAMILIES)
    assert len(sources) >= 8
