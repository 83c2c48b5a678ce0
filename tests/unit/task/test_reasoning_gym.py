import builtins
from collections import Counter
from typing import Any

import pytest

from turnwise.task.reasoning_gym import COMPARABLE, REFUSED, TRAIN_SEED, ReasoningGym
from turnwise.types import Problem

DATASETS = ["chain_sum", "gcd", "count_bits"]


def task(**values: Any) -> ReasoningGym:
    return ReasoningGym(**{"datasets": DATASETS, "num_train": 40, "num_eval": 10, **values})


def statements(problems: list[Problem]) -> list[str]:
    return [problem.prompt[0].content for problem in problems]


def test_splits_are_disjoint_and_balanced() -> None:
    live = task().start(0)
    held_out = live.eval_problems(1000)
    train = live.next_batch(100)
    assert all(set(DATASETS) == {problem.source for problem in train[at : at + 3]} for at in range(0, 90, 3))
    assert live.name == "reasoning_gym"
    assert Counter(problem.source for problem in held_out) == dict.fromkeys(DATASETS, 10)
    assert [problem.source for problem in held_out[:4]] == [*DATASETS, "chain_sum"]
    assert not set(statements(train)) & set(statements(held_out))
    assert len({problem.id for problem in (*train, *held_out)}) == 130


def test_train_items_that_are_eval_items_are_dropped() -> None:
    """Few numbers are possible, so that many of the train items must coincide with eval items."""
    live = task(datasets=["gcd"], options={"gcd": {"max_value": 6}}, num_train=200, num_eval=15).start(0)
    held_out = set(statements(live.eval_problems(1000)))
    num_train = live.state_dict()["num_train"]
    train = statements(live.next_batch(num_train))
    assert num_train < 60
    assert len(set(train)) == num_train
    assert not set(train) & held_out


def test_the_seed_changes_the_train_split_only() -> None:
    first, again, other = (task().start(seed) for seed in (1, 1, 2))
    batch = statements(first.next_batch(30))
    assert batch == statements(again.next_batch(30))
    assert not set(batch) & set(statements(other.next_batch(30)))
    assert first.eval_problems(30) == other.eval_problems(30)


def test_options_reach_the_data_set() -> None:
    (problem,) = (
        task(datasets=["chain_sum"], options={"chain_sum": {"min_terms": 6}}, num_eval=1).start(0).eval_problems(1)
    )
    assert sum(word in "+-" for word in problem.prompt[0].content.split()) == 5  # Six terms, five signs.


def test_every_comparable_data_set_gives_one_answer_per_statement_that_scores_as_right() -> None:
    """Our own answers only: the package's scorers see no other text. Two draws with one seed agree."""
    import reasoning_gym

    live = task(datasets=list(COMPARABLE), num_train=20, num_eval=20)
    problems = live.start(0).eval_problems(10_000)
    assert problems == live.start(1).eval_problems(10_000)
    scorers = {name: reasoning_gym.create_dataset(name, seed=0, size=20) for name in COMPARABLE}
    items = {(name, item["question"].strip()): item for name, data in scorers.items() for item in data}
    assert Counter(problem.source for problem in problems).keys() == set(COMPARABLE)
    for problem in problems:
        item = items[problem.source, problem.prompt[0].content]
        assert scorers[problem.source].score_answer(problem.answer, item) >= 0.99
        assert len(problem.answer.split()) == 1


def test_refused_and_unknown_data_sets_are_named_with_the_reason() -> None:
    with pytest.raises(ValueError, match="'countdown', which is refused: its scorer executes the model's text"):
        task(datasets=["countdown"])
    with pytest.raises(ValueError, match="'codeio', which is refused: the same seed does not give the same problems"):
        task(datasets=["gcd", "codeio"])
    with pytest.raises(ValueError, match="'game_of_life_halting', which is refused: its scorer accepts any text"):
        task(datasets=["game_of_life_halting"])
    with pytest.raises(ValueError, match=r"task.datasets holds 'gdc': expected one of aiw, .*gcd"):
        task(datasets=["gdc"])
    assert not set(REFUSED) & set(COMPARABLE)
    assert sum("executes" in reason for reason in REFUSED.values()) == 9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"datasets": []}, r"task.datasets=\[\]: expected at least one"),
        ({"datasets": ["gcd", "gcd"]}, "expected at least one, each once"),
        ({"num_eval": 0}, f"task.num_eval=0: expected 1 to {TRAIN_SEED}"),
        ({"num_eval": TRAIN_SEED + 1}, f"expected 1 to {TRAIN_SEED}"),
        ({"options": {"lcm": {}}}, r"task.options holds 'lcm': expected one of task.datasets=\['chain_sum'"),
    ],
)
def test_bad_values_are_refused_when_made(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_such_option": 1}, r"task.options.gcd=.*unexpected keyword argument 'no_such_option'"),
        ({"min_numbers": -3}, r"task.options.gcd=.*min_numbers must be at least 2"),
    ],
)
def test_options_that_the_package_refuses_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(options={"gcd": options}).start(0)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_gym(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "reasoning_gym":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_gym)
    with pytest.raises(ImportError, match=r"pip install reasoning-gym==0.1.25"):
        task().start(0)
