import json
import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import config as hub_settings
from pyarrow import parquet

from hub_folders import write_hub
from turnwise.protocols import Task
from turnwise.task.benchmark import Benchmark, Order
from turnwise.task.columns import AnswerRule, Columns
from turnwise.types import Problem

HUB_ROWS = [
    {"question": f"Ann buys {i} pens.\nHow many pens?", "answer": f"{i} * 1 = {i}\n#### {i},000", "extra": i}
    for i in range(1, 6)
]
"""As the hub has them, with a thousands separator in every answer."""
UNIFORM_ROWS = [
    {"id": f"pens/{i}", "problem": f"Ann buys {i} pens.\nHow many pens? ", "answer": f"{i}000", "source": "made up"}
    for i in range(1, 6)
]
"""The same in uniform lines."""


def pens(**fields: Any) -> Benchmark:
    values = {"name": "pens", "split": "test", "columns": Columns(answer_rule=AnswerRule.after_hashes), "path": "x"}
    return Benchmark(**{**values, **fields})


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def evaluated(benchmark: Benchmark, num_problems: int = 10_000) -> list[Problem]:
    live: Task = benchmark.start(0)
    (problems,) = live.eval_sets(num_problems).values()
    return list(problems)


def test_hub_and_files_give_the_same_problems(tmp_path: Path, hub_cache: None) -> None:
    hub = evaluated(pens(path=None, repo=write_hub(tmp_path / "hub", {"test": HUB_ROWS})))
    assert [problem.answer for problem in hub] == ["1000", "2000", "3000", "4000", "5000"]
    assert hub[0].prompt[0].content == "Ann buys 1 pens.\nHow many pens?"
    assert all(problem.source == "pens" and problem.id.startswith("pens/") for problem in hub)
    assert len({problem.id for problem in hub}) == 5
    assert evaluated(pens(path=write(tmp_path / "a.jsonl", UNIFORM_ROWS))) == hub
    assert evaluated(pens(path=write(tmp_path / "b.jsonl", HUB_ROWS))) == hub
    (tmp_path / "c.json").write_text(json.dumps(HUB_ROWS, indent=1))
    assert evaluated(pens(path=str(tmp_path / "c.json"))) == hub
    parquet.write_table(pyarrow.Table.from_pylist(HUB_ROWS), tmp_path / "d.parquet")
    assert evaluated(pens(path=str(tmp_path / "d.parquet"))) == hub


def test_the_first_problems_are_those_of_the_rows_or_of_the_digests(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", UNIFORM_ROWS)
    turned = write(tmp_path / "b.jsonl", UNIFORM_ROWS[::-1])
    assert [problem.answer for problem in evaluated(pens(path=path), 2)] == ["1000", "2000"]
    assert [problem.answer for problem in evaluated(pens(path=turned), 2)] == ["5000", "4000"]
    by_content = [evaluated(pens(path=one, order=Order.content), 2) for one in (path, turned)]
    assert by_content[0] == by_content[1]


def test_a_file_is_found_in_its_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pens: .* holds no pens_test.jsonl or pens_x.jsonl or pens.jsonl"):
        pens(path=str(tmp_path), files=["pens_x"]).start(0)
    write(tmp_path / "pens.jsonl", UNIFORM_ROWS[:1])
    assert len(evaluated(pens(path=str(tmp_path)))) == 1
    write(tmp_path / "pens_x.jsonl", UNIFORM_ROWS[:3])
    assert len(evaluated(pens(path=str(tmp_path), files=["pens_x"]))) == 3
    write(tmp_path / "pens_test.jsonl", UNIFORM_ROWS[:2])
    assert len(evaluated(pens(path=str(tmp_path), files=["pens_x"]))) == 2
    with pytest.raises(FileNotFoundError, match=r"pens: '/none': no such file or folder"):
        pens(path="/none").start(0)


def test_train_problems_come_from_their_own_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [{**UNIFORM_ROWS[0], "problem": f"Bob has {i} cats. How many?", "id": f"t{i}"} for i in range(8)]
    write(tmp_path / "pens_train.jsonl", [*train, UNIFORM_ROWS[0]])
    write(tmp_path / "pens_test.jsonl", UNIFORM_ROWS)
    live = pens(path=str(tmp_path), train_split="train").start(3)
    assert live.removed == {}
    with caplog.at_level(logging.WARNING):
        batch = live.next_batch(8)
    assert {problem.prompt[0].content for problem in batch} == {row["problem"] for row in train}
    assert live.removed == {"pens": 1}
    assert "task pens: train problems removed: 1 known from pens" in caplog.text
    cursor = live.state_dict()
    following = live.next_batch(5)
    other = pens(path=str(tmp_path), train_split="train").start(3)
    other.load_state_dict(json.loads(json.dumps(cursor)))
    assert other.next_batch(5) == following


def test_a_single_file_serves_evaluation_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", UNIFORM_ROWS)
    live = pens(path=path, train_split="train").start(0)
    assert len(live.eval_sets(9)["pens"]) == 5
    with pytest.raises(FileNotFoundError, match=r"path=.*a.jsonl is the file of split test: to train .* train_path"):
        live.next_batch(1)
    other = write(tmp_path / "b.jsonl", [{**UNIFORM_ROWS[0], "problem": "Bob?"}])
    assert pens(path=path, train_split="train", train_path=other).start(0).next_batch(1)[0].answer == "1000"
    with pytest.raises(ValueError, match="task 'pens' has no train split: it is for mode=evaluate"):
        pens(path=path).start(0).next_batch(1)
    only_train = pens(path=path, split="", train_split="train").start(0)
    assert len(only_train.next_batch(5)) == 5
    with pytest.raises(ValueError, match="task 'pens' has no evaluation set"):
        only_train.eval_sets(1)


def test_the_instruction_stands_below_the_question_and_changes_no_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", UNIFORM_ROWS[:1])
    plain, told = (evaluated(pens(path=path, instruction=text))[0] for text in ("", "Answer with a number.\n"))
    assert told.prompt[0].content == "Ann buys 1 pens.\nHow many pens?\n\nAnswer with a number."
    assert told.id == plain.id
    assert pens(path=path, instruction="Answer with a number.\n").statement(told) == plain.prompt[0].content


def test_an_instruction_in_common_gives_no_problem_away(tmp_path: Path) -> None:
    long = "Think as long as you like but answer with one number and with nothing else at all."  # 17 words
    write(tmp_path / "pens_train.jsonl", [{**UNIFORM_ROWS[1], "problem": "Bob?"}, UNIFORM_ROWS[0]])
    write(tmp_path / "pens_test.jsonl", UNIFORM_ROWS)
    live = pens(path=str(tmp_path), train_split="train", instruction=long).start(0)
    assert [problem.prompt[0].content for problem in live.next_batch(1)] == [f"Bob?\n\n{long}"]
    assert live.removed == {"pens": 1}


def test_repeated_statements_are_kept_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    twin = {**UNIFORM_ROWS[0], "id": "twin", "problem": "Ann  buys 1 pens. How many pens?"}
    path = write(tmp_path / "a.jsonl", [*UNIFORM_ROWS, twin])
    with caplog.at_level(logging.WARNING):
        problems = evaluated(pens(path=path))
    assert len(problems) == 6
    assert problems[5].id == f"{problems[0].id}#2"
    assert f"pens: 1 rows of {path} repeat an earlier statement; they are kept" in caplog.text


def test_another_number_of_rows_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", UNIFORM_ROWS)
    with caplog.at_level(logging.WARNING):
        evaluated(pens(path=path, num_rows=5))
        assert not caplog.text
        evaluated(pens(path=path, num_rows=6))
    assert f"pens: {path} has 5 rows, expected 6" in caplog.text


def test_the_source_is_the_subject_where_there_is_one(tmp_path: Path, hub_cache: None) -> None:
    columns = Columns(question=["problem"], source="Subject")
    own = [{"problem": "1 + 1?", "answer": "2", "Subject": "Algebra"}]
    uniform = [{"id": "a", "problem": "1 + 1?", "answer": "2", "source": "x", "meta": {"subject": "Algebra"}}]
    bare = [{"id": "a", "problem": "1 + 1?", "answer": "2", "source": "x"}]
    sources = [
        evaluated(pens(path=write(tmp_path / f"{i}.jsonl", rows), columns=columns))[0].source
        for i, rows in enumerate((own, uniform, bare))
    ]
    assert sources == ["Algebra", "Algebra", "pens"]


def test_answers_that_cannot_be_read_are_listed_and_none_is_dropped(tmp_path: Path) -> None:
    rows = [{**UNIFORM_ROWS[0], "id": str(i), "problem": f"{i}?", "answer": f"about {i}"} for i in range(12)]
    path = write(tmp_path / "a.jsonl", [UNIFORM_ROWS[0], *rows])
    with pytest.raises(ValueError, match="12 of 13 answers cannot be read") as caught:
        pens(path=path).start(0)
    text = str(caught.value)
    assert f"{path}:2: field 'answer' is \"about 0\": expected a number (id pens/" in text
    assert f"{path}:11: " in text
    assert f"{path}:12: " not in text
    assert "; and 2 more. Mend them, or name their ids in leave_out" in text


def test_rows_can_be_left_out_by_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = {**UNIFORM_ROWS[0], "id": "bad", "problem": "How many?", "answer": "many"}
    path = write(tmp_path / "a.jsonl", [*UNIFORM_ROWS, bad])
    with pytest.raises(ValueError, match=r"1 of 6 answers .* \(id pens/\w{10}\)") as caught:
        pens(path=path).start(0)
    id_ = str(caught.value).partition("(id ")[2].partition(")")[0]
    with caplog.at_level(logging.WARNING):
        assert len(evaluated(pens(path=path, leave_out=[id_]))) == 5
    assert f"pens: left out 1 of 6 rows of {path}" in caplog.text
    only = write(tmp_path / "b.jsonl", [bad])
    with pytest.raises(ValueError, match="pens: leave_out leaves nothing of"):
        pens(path=only, leave_out=[id_]).start(0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([UNIFORM_ROWS[0], {"id": "b", "answer": "1"}], "a.jsonl:2: field 'problem' is missing; found id, answer"),
        ([UNIFORM_ROWS[0], {**UNIFORM_ROWS[1], "answer": " "}], "a.jsonl:2: field 'answer' is \" \", expected a text"),
        ([UNIFORM_ROWS[0], {**UNIFORM_ROWS[1], "answer": 5}], "a.jsonl:2: field 'answer' is 5, expected a text"),
        ([UNIFORM_ROWS[0], UNIFORM_ROWS[0]], "a.jsonl:2: id 'pens/1' is already that of .*a.jsonl:1"),
        ([{**UNIFORM_ROWS[0], "meta": "x"}], "a.jsonl:1: field 'meta' is \"x\", expected an object"),
        ([{"id": "a", "problem": "?", "source": "b"}], "a.jsonl:1: field 'answer' is missing; found id, problem"),
        ([HUB_ROWS[0], {"answer": "#### 1"}], "a.jsonl:2: field 'question' is missing; found answer"),
        ([HUB_ROWS[0], {"question": "", "answer": "#### 1"}], "a.jsonl:2: field 'question' is \"\", expected a text"),
        ([HUB_ROWS[0], {"question": "?", "answer": None}], "a.jsonl:2: field 'answer' is null: blank"),
        ([{"question": "?", "solution": "#### 1"}], "a.jsonl:1: field 'answer' is missing; found question, solution"),
    ],
)
def test_what_is_missing_is_named_with_file_line_and_field(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pens(path=write(tmp_path / "a.jsonl", rows)).start(0)


def test_a_hub_column_that_is_missing_is_named(tmp_path: Path, hub_cache: None) -> None:
    repo = write_hub(tmp_path / "hub", {"test": [{"query": "?", "answer": "#### 1"}]})
    with pytest.raises(ValueError, match=r"hub, split test, row 0: field 'question' is missing; found answer"):
        pens(path=None, repo=repo).start(0)


def test_splits_can_be_joined_and_configurations_chosen(tmp_path: Path, hub_cache: None) -> None:
    repo = write_hub(tmp_path / "hub", {"train": HUB_ROWS[:2], "test": HUB_ROWS[2:]}, config="main")
    assert len(evaluated(pens(path=None, repo=repo, config="main", split="train+test"))) == 5
    with pytest.raises(
        ValueError, match=r"\(other\), split test: cannot be loaded: .*main.* give its files by task.path"
    ):
        pens(path=None, repo=repo, config="other").start(0)
    with pytest.raises(ValueError, match=r"split dev: cannot be loaded: .*dev"):
        pens(path=None, repo=repo, config="main", split="dev").start(0)


def test_a_broken_file_of_the_hub_is_told_in_one_line(tmp_path: Path, hub_cache: None) -> None:
    repo = Path(write_hub(tmp_path / "hub", {"test": HUB_ROWS}))
    (repo / "test.jsonl").write_text("{broken")
    with pytest.raises(ValueError, match=r"hub, split test: cannot be loaded: .*Without the hub give its files by"):
        pens(path=None, repo=str(repo)).start(0)


def test_a_hub_out_of_reach_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, hub_cache: None) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(hub_settings, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"owner/none, split test: cannot be loaded: .*Without the hub give its files by"
    ):
        pens(path=None, repo="owner/none").start(0)


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"the hub needs datasets: pip install 'turnwise\[hub\]'; or .* task.path"):
        pens(path=None, repo="owner/name").start(0)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"a parquet file needs the package pyarrow: pip install 'turnwise\[hub\]'"):
        pens(path=str(tmp_path / "a.parquet")).start(0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"question": "?"}', "a.json: expected a list of objects, got dict"),
        ("a.json", "[1]", "a.json, row 0: expected an object, got int"),
        ("a.json", "[{]", r"a.json: not JSON \(.*column 3\)"),
        ("a.json", "[]", "a.json: holds no problem"),
        ("a.jsonl", "\n", "a.jsonl: holds no problem"),
        ("a.jsonl", "{", "a.jsonl:1: not JSON"),
        ("a.parquet", "no", "a.parquet: not a parquet file"),
    ],
)
def test_a_file_that_is_not_what_it_is_called_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        pens(path=str(tmp_path / name)).start(0)


def test_tests_come_with_the_call_that_runs_them(tmp_path: Path) -> None:
    columns = Columns(question=["prompt"], answer_rule=AnswerRule.code, tests="test", entry_point="name")
    test = "def check(candidate):\n    assert candidate(1) == 2\n"
    own = {"prompt": "def f(x):\n    ...\n", "answer": "    return x + 1\n", "test": test, "name": "f"}
    uniform = {"id": "a", "problem": own["prompt"], "answer": own["answer"], "source": "x", "tests": test}
    problems = [
        evaluated(pens(path=write(tmp_path / f"{i}.jsonl", [row]), columns=columns))[0]
        for i, row in enumerate((own, {**uniform, "entry_point": "f"}))
    ]
    assert problems[0] == problems[1]
    assert problems[0].tests == "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)\n"
    assert (problems[0].entry_point, problems[0].answer) == ("f", "    return x + 1\n")
    assert (pens(columns=columns).tool_language, pens().tool_language) == ("python", None)
    for row, message in (
        ({**uniform, "entry_point": "f x"}, "field 'entry_point' is 'f x', expected the name of a function"),
        (uniform, "field 'entry_point' is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            pens(path=write(tmp_path / "bad.jsonl", [row]), columns=columns).start(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "two words"}, "name='two words': expected a name without"),
        ({"name": "a/b"}, "name='a/b': expected a name without"),
        ({"split": ""}, "split='' train_split='': expected at least one"),
        ({"path": None}, "path=null repo='': expected a path or a repository for pens"),
        ({"num_rows": -1}, "num_rows=-1: expected >= 0"),
        ({"contamination_ngram": -1}, "contamination_ngram=-1: expected >= 0"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pens(**fields)
