import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub_folders import write_hub
from turnwise.protocols import Task
from turnwise.task.arithmetic import Arithmetic
from turnwise.task.benchmark import Benchmark
from turnwise.task.chain import Chain
from turnwise.task.columns import Columns
from turnwise.task.families.catalog import FAMILIES
from turnwise.task.jsonl import Jsonl
from turnwise.task.suite import Suite


def row(name: str, index: int) -> dict[str, str]:
    return {"id": f"{name}{index}", "problem": f"{name}: {index}?", "answer": str(index), "source": "made up"}


def write(folder: Path, stem: str, count: int = 4, **changes: Any) -> None:
    rows = [{**row(stem, index), **changes} for index in range(count)]
    (folder / f"{stem}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def member(name: str, **fields: Any) -> Benchmark:
    return Benchmark(**{"name": name, "repo": "owner/none", "split": "test", **fields})


def suite(*names: str, **fields: Any) -> Suite:
    return Suite(members={name: member(name) for name in names}, **fields)


def test_every_member_is_an_evaluation_set_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b")
    write(tmp_path, "a", 2)
    live: Task = suite("b", "a", path=str(tmp_path), name="both").start(0)
    sets = live.eval_sets(3)
    assert [(name, len(problems)) for name, problems in sets.items()] == [("b", 3), ("a", 2)]
    assert sets["b"][1].prompt[0].content == "b: 1?"
    assert live.name == "both"
    (only,) = suite("b", "a", path=str(tmp_path), only=["a"]).start(0).eval_sets(3)
    assert only == "a"


def test_a_member_keeps_a_path_of_its_own(tmp_path: Path, hub_cache: None) -> None:
    write(tmp_path, "a")
    (tmp_path / "else").mkdir()
    write(tmp_path / "else", "b", 1)
    one = Suite(members={"a": member("a"), "b": member("b", path=str(tmp_path / "else"))}, path=str(tmp_path))
    assert [len(problems) for problems in one.start(0).eval_sets(9).values()] == [4, 1]
    hub = write_hub(tmp_path / "hub", {"test": [{"question": "?", "answer": "1"}]})
    assert len(Suite(members={"h": member("h", repo=hub)}).start(0).eval_sets(9)["h"]) == 1


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, "b")
    with pytest.raises(FileNotFoundError, match=r"a: .* holds no a_test.jsonl .*; c: .* holds no c_test.jsonl"):
        suite("a", "b", "c", path=str(tmp_path)).start(0)


def test_without_a_train_task_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    write(tmp_path, "a")
    one = suite("a", path=str(tmp_path))
    assert not one.has_train
    with pytest.raises(ValueError, match="task 'suite' has no train split: it is for mode=evaluate"):
        one.start(0).next_batch(1)


def test_a_benchmark_trains_on_what_no_member_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b", 3)
    rows = [row("t", i) for i in range(5)] + [row("a", 0), row("b", 1), {**row("b", 2), "problem": "B 2"}]
    (tmp_path / "t_train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    train = member("t", split="", train_split="train")
    live = suite("a", "b", train=train, path=str(tmp_path)).start(0)
    with caplog.at_level(logging.WARNING):
        assert {problem.prompt[0].content for problem in live.next_batch(5)} == {f"t: {i}?" for i in range(5)}
    assert live.removed == {"a": 1, "b": 2}
    assert "train problems removed: 1 known from a, 2 known from b" in caplog.text
    assert list(live.eval_sets(1)) == ["a", "b"]


def test_the_train_task_s_own_set_comes_first_and_once(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "t")
    write(tmp_path, "t_train", 2)
    train = member("t", train_split="train")
    assert list(suite("a", train=train, path=str(tmp_path)).start(0).eval_sets(1)) == ["t", "a"]
    assert list(suite("a", "t", train=train, path=str(tmp_path)).start(0).eval_sets(1)) == ["t", "a"]
    assert list(suite("a", train=train, path=str(tmp_path), only=["a"]).start(0).eval_sets(1)) == ["a"]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(row("own", i)) + "\n" for i in range(40)))
    live = suite("a", train=Jsonl(path=str(own), eval_fraction=0.5), path=str(tmp_path)).start(0)
    assert list(live.eval_sets(1)) == ["own", "a"]
    assert live.next_batch(1)[0].source == "made up"


def test_drawn_problems_are_removed_as_they_come(tmp_path: Path) -> None:
    families = [next(iter(FAMILIES))]
    task = Arithmetic(families=families)
    stream = [problem.prompt[0].content for problem in task.start(0).next_batch(40)]
    first = {**row("a", 0), "problem": stream[0]}
    (tmp_path / "a.jsonl").write_text(json.dumps(first) + "\n")
    live = suite("a", train=task, path=str(tmp_path)).start(0)
    drawn = [problem.prompt[0].content for problem in live.next_batch(10)]
    expected = [statement for statement in stream if statement != stream[0]][:10]
    assert drawn == expected
    assert live.removed == {"a": stream[: stream.index(expected[-1]) + 1].count(stream[0])}
    assert list(live.eval_sets(2)) == ["arithmetic", "a"]
    cursor = live.state_dict()
    again = suite("a", train=task, path=str(tmp_path)).start(0)
    again.load_state_dict(json.loads(json.dumps(cursor)))
    assert again.removed == live.removed
    assert again.next_batch(3) == live.next_batch(3)


def test_what_a_stream_removes_is_counted_once_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = Arithmetic()
    first, *_, last = task.start(0).next_batch(40)
    rows = [{**row("a", i), "problem": problem.prompt[0].content} for i, problem in enumerate((first, last))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    live = suite("a", train=task, path=str(tmp_path), contamination_ngram=0).start(0)
    start = live.state_dict()
    with caplog.at_level(logging.WARNING):
        batch = live.next_batch(4)
        assert live.removed == {"a": 1}
        live.load_state_dict(start)
        assert live.removed == {"a": 1}  # as a run looks ahead at its first batch, and notes what it met
        assert live.next_batch(4) == batch
        assert live.removed == {"a": 1}
        live.next_batch(40)
    assert live.removed == {"a": 2}
    assert caplog.text.count("train problems known from a are removed as they are drawn") == 1
    again = suite("a", train=task, path=str(tmp_path), contamination_ngram=0).start(0)
    again.load_state_dict(live.state_dict())
    assert again.removed == {"a": 2}


def test_a_train_task_that_the_sets_hold_whole_ends_with_an_error(tmp_path: Path) -> None:
    train = Jsonl(path=str(tmp_path / "t.jsonl"))
    write(tmp_path, "t")
    (tmp_path / "a.jsonl").write_text((tmp_path / "t.jsonl").read_text())
    live = suite("a", train=train, path=str(tmp_path)).start(0)
    with pytest.raises(ValueError, match="a batch of 1 problems is more than the 0 of the train split"):
        live.next_batch(1)


def test_the_tool_is_that_of_the_members_and_the_train_task() -> None:
    tested = member("h", columns=Columns(tests="t", entry_point="e"))
    assert suite("a").tool_language is None
    assert Suite(members={"a": member("a"), "h": tested}).tool_language == "python"
    assert suite("a", train=Chain()).tool_language == "calculator"
    with pytest.raises(ValueError, match=r"tools that are called in \['calculator', 'python'\]"):
        Suite(members={"h": tested}, train=Chain())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "members={}: expected at least one"),
        ({"members": {"a": 3}}, "members.a: expected a benchmark that can be evaluated on"),
        ({"members": {"a": Arithmetic()}}, "members.a: expected a benchmark"),
        ({"members": {"a": replace(member("a"), split="", train_split="train")}}, "members.a: expected a benchmark"),
        ({"members": {"a": member("a")}, "only": ["b"]}, r"only=\['b'\]: 'b' is no member; they are a"),
        ({"members": {"a": member("a")}, "train": "gsm8k"}, "train: expected a task with a train split"),
        ({"members": {"a": member("a")}, "train": member("b")}, "train: expected a task with a train split"),
        ({"members": {"a": member("a")}, "contamination_ngram": -1}, "contamination_ngram=-1: expected >= 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Suite(**fields)


def test_one_file_is_no_folder_of_a_suite(tmp_path: Path) -> None:
    write(tmp_path, "a")
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl is one file: a suite takes a folder"):
        suite("a", "b", path=str(tmp_path / "a.jsonl")).start(0)
