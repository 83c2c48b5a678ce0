import json

import pytest

from turnwise.key_values import KeyValueStore
from turnwise.protocols import Demonstrated, Task
from turnwise.task.generated import is_eval
from turnwise.task.lookup import Lookup
from turnwise.types import Problem


def statements(problems: list[Problem]) -> list[str]:
    return [problem.prompt[0].content for problem in problems]


def test_the_statement_says_what_to_do() -> None:
    one, two = (statements(Lookup(num_hops=hops).start(0).next_batch(1))[0] for hops in (1, 2))
    assert one == f"Look up the key {one[16:20]}. What is the last value?"
    assert two == (
        f"Look up the key {two[16:20]}. Its value is the next key: look that up, and so on, 2 look-ups in all. "
        "What is the last value?"
    )


@pytest.mark.parametrize("num_hops", [1, 2, 8])
def test_the_answer_is_so_many_hops_away_in_the_store_of_the_statement(num_hops: int) -> None:
    task: Task = Lookup(num_hops=num_hops).start(0)
    for problem in task.next_batch(50):
        (statement,) = statements([problem])
        store, value = KeyValueStore(name=statement), statement[16:20]
        for _ in range(num_hops):
            value = store[value]
        assert (problem.answer, problem.source) == (value, f"hops_{num_hops}")


def test_train_and_eval_are_disjoint_and_eval_is_the_same_for_every_seed() -> None:
    held_out = Lookup().start(0).eval_problems(1000)  # of 9,000 statements one in eight
    assert len(set(statements(held_out))) == 1000
    assert all(map(is_eval, statements(held_out)))
    assert held_out == Lookup().start(1).eval_problems(1000)
    assert not any(map(is_eval, statements(Lookup().start(0).next_batch(1000))))


def test_resume_goes_on_where_the_state_was_taken() -> None:
    task = Lookup().start(5)
    task.next_batch(13)
    resumed = Lookup().start(5)
    resumed.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert resumed.next_batch(20) == task.next_batch(20)


def test_nobody_demonstrates_it() -> None:
    assert not isinstance(Lookup(), Demonstrated)


@pytest.mark.parametrize("num_hops", [0, 9])
def test_hops_out_of_range_are_named(num_hops: int) -> None:
    with pytest.raises(ValueError, match=f"num_hops={num_hops}: expected 1 to 8"):
        Lookup(num_hops=num_hops)
