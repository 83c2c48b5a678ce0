import json
import re
from collections import Counter
from itertools import islice

import pytest

from turnwise.protocols import Demonstrated, Task
from turnwise.task.arithmetic import Arithmetic
from turnwise.task.families.catalog import FAMILIES, WARM_START_FAMILIES
from turnwise.task.generated import is_eval
from turnwise.task.transcripts import Flaws
from turnwise.types import Problem


def statements(problems: list[Problem]) -> list[str]:
    return [problem.prompt[0].content for problem in problems]


def test_train_and_eval_are_disjoint() -> None:
    task: Task = Arithmetic(families=[]).start(0)
    train, held_out = statements(task.next_batch(3000)), statements(task.eval_problems(600))
    assert not any(map(is_eval, train))
    assert all(map(is_eval, held_out))
    assert not set(train) & set(held_out)


def test_demonstrated_problems_come_from_the_train_side_and_are_not_the_train_problems() -> None:
    task: Demonstrated = Arithmetic(families=[])
    problems = [problem for problem, _ in islice(task.demonstrations(0), 480)]
    assert not any(map(is_eval, statements(problems)))
    assert Counter(problem.source for problem in problems) == dict.fromkeys(FAMILIES, 480 // len(FAMILIES))
    train = set(statements(Arithmetic(families=[]).start(0).next_batch(480)))
    assert len(train & set(statements(problems))) <= 5


def test_demonstrations_repeat_and_begin_with_a_turn_of_their_own_problem() -> None:
    first, second = (
        [(problem, next_turn(None)) for problem, next_turn in islice(Arithmetic().demonstrations(4), 50)] for _ in "ab"
    )
    assert first == second
    flawless = Arithmetic(families=["gcd"], flaws=Flaws(rate=0))
    for problem, next_turn in islice(flawless.demonstrations(4), 20):
        call = str(next_turn(None))
        assert all(operand in call for operand in re.findall(r"\d+", problem.prompt[0].content))


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
