import json
import logging
from pathlib import Path
from typing import Any

import pytest

from turnwise.task.jsonl import Jsonl
from turnwise.types import Problem


def row(index: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"r{index}", "problem": f"What is {index} + 1?", "answer": str(index + 1), **fields}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows))
    return str(path)


def statements(problems: list[Problem]) -> list[str]:
    return [problem.prompt[0].content for problem in problems]


def splits(task: Jsonl, num_train: int, seed: int = 0) -> tuple[list[str], list[str]]:
    live = task.start(seed)
    return statements(live.next_batch(num_train)), statements(live.eval_problems(10_000))


def test_reads_problems_and_ignores_meta(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", row(1, source="book", meta={"level": 3}), "", row(2))
    live = Jsonl(path=path, eval_fraction=1).start(0)
    by_id = {problem.id: problem for problem in live.eval_problems(9)}
    assert live.name == "sums"
    assert by_id["r1"].source == "book"
    assert by_id["r2"].source == "sums"  # The file's stem stands in for a missing source.
    assert by_id["r2"].answer == "3"
    assert by_id["r2"].prompt[0].role == "user"
    assert by_id["r2"].prompt[0].content == "What is 2 + 1?"


def test_one_file_is_split_by_the_text_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *(row(i) for i in range(400)))
    renamed = write(tmp_path / "b.jsonl", *(row(i, id=f"other{i}") for i in reversed(range(400))))
    held_out = statements(Jsonl(path=path).start(0).eval_problems(400))
    train = statements(Jsonl(path=path).start(0).next_batch(400 - len(held_out)))
    assert 20 <= len(held_out) <= 60  # 40 expected of 400, standard deviation 6
    assert sorted(train + held_out) == sorted(f"What is {i} + 1?" for i in range(400))
    assert held_out == statements(Jsonl(path=renamed).start(9).eval_problems(400))


def test_equal_statements_stay_on_one_side_whatever_their_white_space(tmp_path: Path) -> None:
    twins = [row(i, id=f"twin{i}", problem=f"What  is {i} +\n1? ") for i in range(100)]
    path = write(tmp_path / "a.jsonl", *(row(i) for i in range(100)), *twins)
    held_out = statements(Jsonl(path=path, eval_fraction=0.5).start(0).eval_problems(200))
    train = statements(Jsonl(path=path, eval_fraction=0.5).start(0).next_batch(200 - len(held_out)))
    assert len(held_out) % 2 == 0
    assert not {" ".join(s.split()) for s in held_out} & {" ".join(s.split()) for s in train}


def test_train_problems_that_stand_in_the_eval_file_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "train.jsonl", *(row(i) for i in range(10)))
    eval_path = write(tmp_path / "test.jsonl", *(row(i) for i in range(8, 12)))
    with caplog.at_level(logging.WARNING):
        train, held_out = splits(Jsonl(path=path, eval_path=eval_path), num_train=8)
    assert sorted(train) == sorted(f"What is {i} + 1?" for i in range(8))
    assert sorted(held_out) == sorted(f"What is {i} + 1?" for i in range(8, 12))
    assert f"dropped 2 of {path}: also in {eval_path}" in caplog.text
    live = Jsonl(path=path, eval_path=eval_path).start(0)
    assert (live.name, live.removed) == ("test", {"test": 2})


def test_train_problems_that_share_many_words_with_the_eval_file_are_dropped(tmp_path: Path) -> None:
    words = "a farmer sells nine eggs to each of the twelve guests of an inn"  # 14 words
    path = write(tmp_path / "train.jsonl", row(0, problem=f"Every day {words}: how many?"), row(1))
    eval_path = write(tmp_path / "test.jsonl", row(2, problem=f"Today, {words.upper()}. What does she earn?"))
    assert splits(Jsonl(path=path, eval_path=eval_path), num_train=1)[0] == ["What is 1 + 1?"]
    kept, _ = splits(Jsonl(path=path, eval_path=eval_path, contamination_ngram=0), num_train=2)
    assert len(kept) == 2


def test_the_seed_orders_the_train_split_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *(row(i) for i in range(60)))
    first, again, other = (splits(Jsonl(path=path), num_train=30, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first[0] != other[0]
    assert first[1] == other[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", r"a.jsonl:2: not JSON \(Expecting property name enclosed in double quotes at column 2\)"),
        ("[1, 2]", "a.jsonl:2: expected an object, got list"),
        ("[" * 100_000, "a.jsonl:2: JSON that is nested too deeply|a.jsonl:2: not JSON"),
        ({"id": "x", "problem": "1 + 1?"}, "a.jsonl:2: field 'answer' is missing; found id, problem"),
        ({"id": "x", "answer": "2", "question": "1?"}, "a.jsonl:2: field 'problem' is missing; found id, answer, que"),
        (row(1, answer="  "), "a.jsonl:2: field 'answer' is \"  \", expected a text that is not blank"),
        (row(1, answer=2), "a.jsonl:2: field 'answer' is 2, expected a text"),
        (row(1, problem=None), "a.jsonl:2: field 'problem' is null, expected a text"),
        (row(1, source=""), "a.jsonl:2: field 'source' is \"\", expected a text"),
        (row(0), "a.jsonl:2: id 'r0' is already that of .*a.jsonl:1"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", row(0), line, row(5))
    with pytest.raises(ValueError, match=message):
        Jsonl(path=path).start(0)


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"task file '.*none.jsonl': no such file"):
        Jsonl(path=str(tmp_path / "none.jsonl")).start(0)
    with pytest.raises(ValueError, match=r"empty.jsonl: holds no problem"):
        Jsonl(path=write(tmp_path / "empty.jsonl", "", "  ")).start(0)
    good = write(tmp_path / "good.jsonl", row(0))
    with pytest.raises(FileNotFoundError, match=r"'.*none.jsonl': no such file"):
        Jsonl(path=good, eval_path=str(tmp_path / "none.jsonl")).start(0)


@pytest.mark.parametrize("eval_fraction", [0.0, -0.1, 1.1, float("nan")])
def test_eval_fraction_out_of_range_is_refused(eval_fraction: float) -> None:
    with pytest.raises(ValueError, match=r"task.eval_fraction=.*: expected a number in \(0, 1\]"):
        Jsonl(path="a.jsonl", eval_fraction=eval_fraction)


def test_a_negative_number_of_words_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task.contamination_ngram=-1: expected >= 0"):
        Jsonl(path="a.jsonl", contamination_ngram=-1)
