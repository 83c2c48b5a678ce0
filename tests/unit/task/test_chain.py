import json
from collections import Counter
from itertools import islice, pairwise

import pytest

from turnwise.protocols import Demonstrated, Task
from turnwise.task.chain import Chain
from turnwise.task.generated import is_eval
from turnwise.types import Problem


def evaluate(statement: str) -> tuple[list[int], int]:
    """Every value on the way and the number of operations, read from the statement alone."""
    first, *steps = statement.split("\n")
    values = [int(first.removeprefix("Start at "))]
    for label, step in zip("ABCDEFGH", steps, strict=False):
        name, sign, operand = step.split()
        assert name == f"{label}:"
        values.append({"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](values[-1], int(operand)))
    return values, len(steps)


def statements(problems: list[Problem]) -> list[str]:
    return [problem.prompt[0].content for problem in problems]


@pytest.mark.parametrize("horizon", range(2, 9))
def test_every_operation_counts_and_no_value_is_long(horizon: int) -> None:
    task: Task = Chain(horizon=horizon).start(0)
    for problem in task.next_batch(300):
        values, num_operations = evaluate(problem.prompt[0].content)
        assert num_operations == horizon
        assert str(values[-1]) == problem.answer
        assert all(1 <= value <= 999 for value in values)
        assert all(before != after for before, after in pairwise(values))
        assert problem.source == f"horizon_{horizon}"


def test_every_sign_occurs_at_every_place() -> None:
    signs = [statement.split()[4::3] for statement in statements(Chain(horizon=8).start(0).next_batch(400))]
    assert all(set(place) == {"+", "-", "*"} for place in zip(*signs, strict=True))


def test_train_and_eval_are_disjoint_and_eval_has_thousands_for_every_seed() -> None:
    held_out = Chain(horizon=2).start(0).eval_problems(3000)
    assert len(set(statements(held_out))) == 3000
    assert all(map(is_eval, statements(held_out)))
    assert held_out == Chain(horizon=2).start(1).eval_problems(3000)
    assert not any(map(is_eval, statements(Chain(horizon=2).start(0).next_batch(3000))))


def test_resume_goes_on_where_the_state_was_taken() -> None:
    task = Chain().start(5)
    task.next_batch(13)
    resumed = Chain().start(5)
    resumed.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert resumed.next_batch(20) == task.next_batch(20)
    with pytest.raises(ValueError, match=r"families=\['horizon_5'\] does not fit this task's \['horizon_4'\]"):
        Chain(horizon=4).start(5).load_state_dict(task.state_dict())


def test_demonstrations_mix_the_horizons_up_to_the_tasks_own() -> None:
    task: Demonstrated = Chain(horizon=4)
    problems = [problem for problem, _ in islice(task.demonstrations(0), 300)]
    assert Counter(problem.source for problem in problems) == {"horizon_2": 100, "horizon_3": 100, "horizon_4": 100}
    assert not any(map(is_eval, statements(problems)))


@pytest.mark.parametrize("horizon", [1, 9])
def test_horizon_out_of_range_is_named(horizon: int) -> None:
    with pytest.raises(ValueError, match=f"horizon={horizon}: expected 2 to 8"):
        Chain(horizon=horizon)
