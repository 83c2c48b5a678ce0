"""Every benchmark option reads the columns that its data set has on the hub; the rows here are made up."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import config as hub_settings

from hub_folders import write_hub
from turnwise.config.build import build_components
from turnwise.config.modes import Train
from turnwise.config.options import option_groups
from turnwise.task.benchmark import Benchmark
from turnwise.task.reasoning_gym import ReasoningGym
from turnwise.task.suite import Suite
from turnwise.types import Problem

HUB = {
    "gsm8k": {"question": "Ann has 3 hens. How many legs?", "answer": "3 * 2 = <<3*2=6>>6 legs\n#### 6"},
    "math500": {
        **{"problem": "Find $x$ with $2x = 1$.", "solution": r"$\boxed{\frac12}$", "answer": r"\frac{1}{2}"},
        **{"subject": "Algebra", "level": 2, "unique_id": "test/algebra/0.json"},
    },
    "aime24": {"id": 7, "problem": "Find $n$.", "solution": "...", "answer": "033", "url": "x", "year": "2024"},
    "aime25": {"problem": "Find $n$.", "answer": "70", "id": "0"},
    "amc23": {"id": 1, "question": "Find $n$.", "answer": 27.0, "url": "x"},
    "svamp": {
        **{"ID": "chal-0", "Body": "Ann has 3 hens", "Question": "How many legs?", "Equation": "( 3.0 * 2.0 )"},
        **{"Answer": "6.0", "Type": "Multiplication", "question_concat": "Ann has 3 hens How many legs?"},
    },
    "asdiv": {
        **{"body": "Ann has 3 hens.", "question": "How many legs?", "solution_type": "Multiplication"},
        **{"answer": "6 (legs)", "formula": "3*2=6"},
    },
    "olympiadbench": {
        **{"id": 9, "question": "Solve $x^2 = 4$.", "solution": ["..."], "final_answer": ["2", "-2"]},
        **{"subfield": "Algebra", "answer_type": "Numerical", "is_multiple_answer": True, "unit": None},
    },
    "minerva_math": {"question": "How bright is it?", "answer": r"4.5e33"},
    "humaneval": {
        **{
            "task_id": "x/0",
            "prompt": "def twice(x):\n    '''Double.'''\n",
            "canonical_solution": "    return 2 * x\n",
        },
        **{"test": "def check(candidate):\n    assert candidate(2) == 4\n", "entry_point": "twice"},
    },
    "strategyqa": {
        **{"qid": "q", "term": "Hen", "description": "bird", "question": "Can a hen read?", "answer": False},
        "facts": "Birds cannot read.",
    },
    "commonsenseqa": {
        **{"id": "c", "question": "Where is a hen?", "question_concept": "hen", "answerKey": "B"},
        "choices": {"label": ["A", "B"], "text": ["sea", "yard"]},
    },
    "math_train": {
        **{"problem": "Find $x$.", "level": "Level 1", "type": "Algebra"},
        "solution": r"First $\boxed{1}$, then $x = \boxed{\frac{1}{2}}$.",
    },
    "dapo_17k_train": {
        **{"prompt": "Find $n$.", "solution": "34", "data_source": "math_dapo", "ability": "MATH"},
        "reward_model": {"ground_truth": "34", "style": "rule"},
    },
    "deepscaler_train": {"problem": "Find $x$.", "answer": r"-\frac{2}{3}", "solution": "..."},
}
"""A row of each with the columns that the hub has."""
READ = {
    "gsm8k": ("Ann has 3 hens. How many legs?", "6", "gsm8k"),
    "math500": ("Find $x$ with $2x = 1$.", r"\frac{1}{2}", "Algebra"),
    "aime24": ("Find $n$.", "33", "aime24"),
    "aime25": ("Find $n$.", "70", "aime25"),
    "amc23": ("Find $n$.", "27", "amc23"),
    "svamp": ("Ann has 3 hens. How many legs?", "6", "Multiplication"),
    "asdiv": ("Ann has 3 hens. How many legs?", "6", "Multiplication"),
    "olympiadbench": ("Solve $x^2 = 4$.", "2, -2", "Algebra"),
    "minerva_math": ("How bright is it?", "4.5e33", "minerva_math"),
    "humaneval": ("def twice(x):\n    '''Double.'''", "    return 2 * x\n", "humaneval"),
    "strategyqa": ("Can a hen read?", "no", "strategyqa"),
    "commonsenseqa": ("Where is a hen?\n\n(A) sea\n(B) yard", "B", "commonsenseqa"),
    "math_train": ("Find $x$.", r"\frac{1}{2}", "Algebra"),
    "dapo_17k_train": ("Find $n$.", "34", "dapo_17k"),
    "deepscaler_train": ("Find $x$.", r"-\frac{2}{3}", "deepscaler"),
}
"""Its statement, answer and source."""
SUITES = ("math", "dapo_17k", "deepscaler", "suite_math", "suite_paper", "suite_words")
LOCAL = ("gsm8k", "math500", "aime24", "amc23", "svamp", "humaneval", "strategyqa_dev")


def task(composed: Any, *overrides: str) -> Any:
    return build_components(composed(*overrides), "label").task


def only_problem(benchmark: Benchmark) -> Problem:
    live = benchmark.start(0)
    if not benchmark.split:
        return live.next_batch(1)[0]
    ((problem,),) = live.eval_sets(9).values()
    return problem


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_settings, "HF_DATASETS_CACHE", str(tmp_path / "hub_cache"))


def test_every_benchmark_is_looked_at_here() -> None:
    others = {"arithmetic", "chain", "jsonl", "lookup", "reasoning_gym", "reasoning_gym_medium", *SUITES}
    of_files = {"strategyqa_dev"}
    assert set(option_groups()["task"]) - others - of_files == set(HUB) == set(READ)


@pytest.mark.parametrize("option", sorted(HUB))
def test_every_option_reads_the_hub_s_columns(composed, tmp_path: Path, hub_cache: None, option: str) -> None:
    chosen = task(composed, f"task={option}")
    splits = {split: [HUB[option]] for split in (chosen.split or chosen.train_split).split("+")[:1]}
    config = chosen.config or "default"
    folder = write_hub(tmp_path / "hub", splits, config)
    one_split = "train" if "+" in chosen.split else chosen.split  # the one row is in one of two
    problem = only_problem(replace(chosen, repo=folder, split=one_split))
    assert (chosen.statement(problem), problem.answer, problem.source) == READ[option]
    assert problem.id.startswith(f"{chosen.name}/")
    assert problem.prompt[0].content.endswith(chosen.instruction.strip())
    assert bool(problem.tests) == (option == "humaneval")
    assert chosen.num_rows > 0 or chosen.num_train_rows > 0


def test_suites_hold_what_they_are_for(composed) -> None:
    of = {option: task(composed, f"task={option}") for option in SUITES}
    assert all(isinstance(one, Suite) and one.name == option for option, one in of.items())
    assert list(of["suite_math"].members) == [
        *("gsm8k", "math500", "aime24", "aime25", "amc23", "svamp", "asdiv", "olympiadbench", "minerva_math")
    ]
    assert list(of["suite_words"].members) == ["svamp", "gsm8k"]
    assert isinstance(of["suite_words"].train, ReasoningGym)
    assert list(of["suite_paper"].members) == [
        *("aime24", "math500", "svamp", "strategyqa", "commonsenseqa", "humaneval")
    ]
    assert [one.has_train for one in of.values()] == [True, True, True, False, False, True]
    assert all(name == member.name for one in of.values() for name, member in one.members.items())


def test_a_train_task_and_a_member_can_be_put_in(composed) -> None:
    chosen = task(composed, "task=suite_math", "+task@task.train=reasoning_gym", "task.train.num_eval=7")
    assert (type(chosen.train).__name__, chosen.train.num_eval) == ("ReasoningGym", 7)
    chosen = task(composed, "task=deepscaler", "+task@task.members.svamp=svamp", "task.members.svamp.path=FOLDER")
    assert list(chosen.members) == ["math500", "aime24", "svamp"]
    assert chosen.members["svamp"].path == "FOLDER"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=gsm8k", "task.columns.answer_rul=text"], "task.columns.answer_rul: no such key .*answer_rule"),
        (["task=suite_math", "task.members.gsm8k.pth=a"], "task.members.gsm8k.pth: no such key .*members.gsm8k.path"),
        (["task=suite_math", "task.only=[aime]"], r"task.only=\['aime'\]: 'aime' is no member"),
        (["task=suite_math", "task.train=gsm8k"], r"train: expected a task .*\+task@task.train=NAME"),
        (["task=gsm8k", "task.num_rows=-1"], "task.num_rows=-1: expected >= 0"),
        (["task=humaneval", "env=calculator"], "task=humaneval env=calculator: .*expected env=python_tool"),
        (["task=suite_paper", "env=lookup"], "task=suite_paper env=lookup: .*expected env=python_tool"),
        (["task=humaneval", "env=no_tool"], "task=humaneval env=no_tool: .*have tests.*with evaluation.tools=off"),
        (["task=suite_paper", "env=no_tool"], "task=suite_paper env=no_tool: .*have tests"),
        (
            ["task=suite_math", "env=no_tool", "+task@task.train=humaneval", "task.train.train_split=train"],
            "task=suite_math env=no_tool: .*have tests",
        ),
        (
            ["env=no_tool", "evaluation.tools=both"],
            "evaluation.tools=both env=no_tool: .*sampled twice: expected .*=on",
        ),
        (["env=no_tool", "evaluation.tools=off"], "evaluation.tools=off env=no_tool: .*expected evaluation.tools=on"),
        (["task=strategyqa_dev"], "task.path=null repo='': expected a path or a repository for strategyqa_dev"),
    ],
)
def test_what_does_not_fit_is_refused(start, overrides: list[str], message: str) -> None:
    ended = start(*overrides)
    assert ended.code == 2
    assert re.search(message, ended.stderr)


def test_what_fits_without_a_tool_is_taken(composed) -> None:
    for overrides in (
        ["task=suite_paper", "task.only=[aime24,svamp]", "env=no_tool"],
        ["task=humaneval", "evaluation.tools=both"],
        ["task=humaneval", "evaluation.tools=off"],
        ["env=no_tool"],
    ):
        task(composed, *overrides)


def test_the_authors_file_is_another_set_than_the_hub_s(composed, tmp_path: Path) -> None:
    row = {"id": "q0", "problem": "Can a hen read?", "answer": "no", "source": "made up"}
    (tmp_path / "strategyqa_dev.jsonl").write_text(json.dumps(row) + "\n")
    live = task(composed, "task=strategyqa_dev", f"task.path={tmp_path}").start(0)
    assert [problem.answer for problem in live.eval_sets(9)["strategyqa_dev"]] == ["no"]
    with pytest.raises(FileNotFoundError, match=r"strategyqa: .* holds no strategyqa_test.jsonl or strategyqa.jsonl"):
        task(composed, "task=strategyqa", f"task.path={tmp_path}").start(0)


def test_training_without_a_train_task_is_refused_before_anything_loads(start) -> None:
    ended = start("task=suite_math", "task.path=/nowhere", mode=Train())
    assert ended.code == 2
    assert "mode=train: this task has nothing to train on: expected mode=evaluate" in ended.stderr


@pytest.mark.parametrize("option", LOCAL)
def test_the_published_files_are_read_whole(composed, option: str) -> None:
    folder = os.environ.get("TURNWISE_BENCHMARKS")
    if folder is None:
        pytest.skip("TURNWISE_BENCHMARKS names no folder with the benchmarks' files")
    benchmark = task(composed, f"task={option}", f"task.path={folder}")
    problems = benchmark.start(0).eval_sets(10_000)[option]
    assert len(problems) == benchmark.num_rows
    assert len({problem.id for problem in problems}) == len(problems)
