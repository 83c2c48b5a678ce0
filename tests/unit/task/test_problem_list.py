import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.protocols import Task
from turnwise.task.problem_list import ProblemList
from turnwise.types import Message, Problem


def problems(count: int, num_sources: int = 1) -> list[Problem]:
    return [
        Problem(
            id=f"p{i}", prompt=(Message(role="user", content=f"{i}?"),), answer=str(i), source=f"s{i % num_sources}"
        )
        for i in range(count)
    ]


def ids(batch: list[Problem]) -> list[str]:
    return [problem.id for problem in batch]


def make(count: int = 10, seed: int = 0) -> ProblemList:
    return ProblemList("numbers", problems(count), problems(3), seed)


def test_every_epoch_holds_each_problem_once_in_an_order_of_its_own() -> None:
    task: Task = make()
    epochs = [ids(task.next_batch(10)) for _ in range(3)]
    assert all(sorted(epoch) == ids(problems(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert ids(make(seed=1).next_batch(10)) != epochs[0]


@given(count=st.integers(1, 12), size=st.integers(1, 12), seed=st.integers(0, 5))
def test_batches_hold_distinct_problems_across_epoch_borders_and_epochs_stay_exact(
    count: int, size: int, seed: int
) -> None:
    size = min(size, count)
    task = make(count, seed)
    seen: list[str] = []
    for _ in range(count * 3):
        batch = ids(task.next_batch(size))
        assert len(set(batch)) == size
        seen += batch
    for epoch in range(len(seen) // count):
        assert len(set(seen[epoch * count : (epoch + 1) * count])) == count


@given(count=st.integers(3, 15), size=st.integers(1, 12))
def test_in_a_balanced_list_the_sources_take_turns(count: int, size: int) -> None:
    task = ProblemList("numbers", problems(count, num_sources=3), [], seed=0, balanced=True)
    order = [problem.source for problem in task.next_batch(count)]
    whole = count // 3 * 3
    assert all(len(set(order[start : start + 3])) == 3 for start in range(0, whole, 3))
    seen = [problem.id for _ in range(count) for problem in task.next_batch(min(size, count))]
    assert {len(set(seen[start : start + count])) for start in range(0, len(seen) - count + 1, count)} == {count}


def test_a_balanced_list_stays_balanced_when_problems_are_removed() -> None:
    task = ProblemList("numbers", problems(12, num_sources=3), [], seed=0, balanced=True)
    kept = task.keeping(lambda problem: problem.id not in ("p0", "p1", "p2"))
    assert all({problem.source for problem in kept.next_batch(3)} == {"s0", "s1", "s2"} for _ in range(3))


@given(before=st.integers(0, 12), size=st.integers(1, 7))
def test_resume_at_any_step_goes_on_alike(before: int, size: int) -> None:
    task = make()
    for _ in range(before):
        task.next_batch(size)
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert [ids(resumed.next_batch(size)) for _ in range(5)] == [ids(task.next_batch(size)) for _ in range(5)]
    assert resumed.state_dict() == task.state_dict()


def test_eval_problems_keep_their_order_and_end_when_there_are_no_more() -> None:
    assert ids(make().eval_problems(2)) == ["p0", "p1"]
    assert ids(make().eval_problems(99)) == ["p0", "p1", "p2"]


def test_empty_and_short_splits_say_so() -> None:
    empty = ProblemList("numbers", [], [], 0)
    with pytest.raises(ValueError, match="task 'numbers': a batch of 1 problems is more than the 0 of the train split"):
        empty.next_batch(1)
    with pytest.raises(ValueError, match="task 'numbers': the eval split is empty"):
        empty.eval_problems(1)


def test_a_state_of_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="saved state has num_train=9, this task 10"):
        make(10).load_state_dict(make(9).state_dict())
    with pytest.raises(ValueError, match="saved state has seed=1, this task 0"):
        make(seed=0).load_state_dict(make(seed=1).state_dict())
