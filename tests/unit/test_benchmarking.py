"""The driver of `make benchmarks`: its command line, what it evaluates, and what it refuses before it begins."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from synthetic_study import synthetic_study
from turnwise.config.errors import ConfigError
from turnwise.config.stopping import INTERRUPTED
from turnwise.config.sweep import compose_components
from turnwise.report.summary import Outcome, summarise_lines, write_summary
from turnwise.study.benchmarks import START, Policy
from turnwise.study.runs import Study, read_study

SCRIPT = Path(__file__).parents[2] / "experiments/benchmarks.py"
spec = importlib.util.spec_from_file_location("benchmarks", SCRIPT)
assert spec is not None
assert spec.loader is not None
benchmarks = importlib.util.module_from_spec(spec)
sys.modules["benchmarks"] = benchmarks
spec.loader.exec_module(benchmarks)


@pytest.fixture(scope="module")
def tiny() -> Any:
    """The tiny policy's part of a run's record."""
    return compose_components([], label="tiny").config["model"]


def trained_in(root: Path, model: Any, num_seeds: int) -> Study:
    synthetic_study(root, arms=["gtpo", "grpo"], num_seeds=num_seeds, num_steps=2)
    for run in read_study(root).runs:
        record = {**run.record, "config": {**run.record["config"], "model": model}}
        (run.folder / "config.json").write_text(json.dumps(record))
        (run.folder / "checkpoints" / "last").mkdir(parents=True)
        (run.folder / "checkpoints" / "last" / "config.json").touch()
    return read_study(root)


@pytest.fixture
def trained(tmp_path: Path, tiny: Any) -> Study:
    """A study of the tiny policy, of two arms with two seeds, as far as the driver reads it."""
    return trained_in(tmp_path / "study", tiny, num_seeds=2)


@pytest.fixture
def single(tmp_path: Path, tiny: Any) -> Study:
    """The same with one seed, for what does not depend on how many policies there are."""
    return trained_in(tmp_path / "study", tiny, num_seeds=1)


def options(study: Study, *words: str) -> Any:
    return benchmarks.parse(["--study", str(study.root), *words])


def prepared(study: Study, *words: str) -> Any:
    return benchmarks.prepare(study, options(study, *words))


def test_the_start_comes_first_and_then_every_run(trained: Study):
    plan = prepared(trained, "evaluation.num_problems=4")
    names = [policy.name for policy in plan.commands]
    assert names == [START, "gtpo seed 0", "grpo seed 0", "gtpo seed 1", "grpo seed 1"]
    start, first, *_ = plan.commands.values()
    assert start[:2] == ["mode=evaluate", "evaluation.num_problems=4"]
    assert start[2] == "model.path='package:tiny'"
    assert first[2] == f"model.path='{trained.root}/gtpo_seed0/checkpoints/last'"
    assert first[3] == f"hydra.run.dir='{trained.root}/benchmarks/gtpo_seed0'"
    assert plan.notes == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.system_prompt=Think."], r"model.system_prompt is '.*' in the study and 'Think\.' here"),
        (["evaluation.num_problems=no"], "num_problems"),
        (["evaluation.save_groups=false"], "save_groups=false: the answers are needed"),
        (["evaluation.num_problems=1,2"], "num_problems=1,2: expected a single value"),
        (["task=svamp", "task.path=/nowhere"], "/nowhere"),
        (["model.path=elsewhere"], "which policies are evaluated follows from --study"),
        (["~model.path"], "~model.path"),
        (["hydra.run.dir=elsewhere"], "the study itself decides hydra.run.dir"),
        (["mode=train"], "the study itself decides mode"),
    ],
)
def test_what_would_be_refused_later_is_refused_at_once(single: Study, words: list[str], message: str):
    args = options(single, "evaluation.num_problems=4")
    args.words = words
    with pytest.raises((ConfigError, OSError), match=message):
        benchmarks.prepare(single, args)


def test_long_prompts_are_shown_where_they_differ(single: Study):
    for run in single.runs:
        model = {**run.record["config"]["model"], "system_prompt": "x" * 500 + "Use the tool."}
        (run.folder / "config.json").write_text(
            json.dumps({**run.record, "config": {"seed": run.seed, "model": model}})
        )
    with pytest.raises(
        ConfigError, match=r"is \.\.\.x{20}Use the tool\.' in the study and \.\.\.x{20}Do without\.' here"
    ):
        prepared(read_study(single.root), f"model.system_prompt={'x' * 500}Do without.")


def test_other_limits_than_those_of_the_training_are_noted(single: Study):
    for run in single.runs:
        limits = {"max_turns": 2, "max_tokens": 224}
        record = {**run.record, "config": {**run.record["config"], "rollout": limits}}
        (run.folder / "config.json").write_text(json.dumps(record))
    plan = prepared(read_study(single.root), "rollout.max_turns=3", "rollout.max_tokens=224")
    assert plan.notes == ["not as in the training: rollout.max_turns is 2 in the study and 3 here"]


def test_another_environment_than_that_of_the_training_is_refused(single: Study):
    for run in single.runs:
        env = {"_target_": "turnwise.env.calculator.Calculator"}
        record = {**run.record, "config": {**run.record["config"], "env": env}}
        (run.folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"env\._target_ is .*Calculator' in the study and .*PythonTool' here"):
        prepared(read_study(single.root))


def test_the_same_task_with_other_settings_is_noted(single: Study):
    for run in single.runs:
        task = {"_target_": "turnwise.task.arithmetic.Arithmetic", "families": ["gcd"]}
        record = {**run.record, "config": {**run.record["config"], "task": task}}
        (run.folder / "config.json").write_text(json.dumps(record))
    (note,) = prepared(read_study(single.root), "task.families=[gcd,lcm]").notes
    assert note == "not as in the training: task.families is ['gcd'] in the study and ['gcd', 'lcm'] here"


def test_the_number_of_threads_may_differ(single: Study):
    assert prepared(single, "model.num_threads=1", "evaluation.num_problems=4").notes == []


def test_weights_that_are_gone_are_named(trained: Study):
    (trained.root / "grpo_seed1/checkpoints/last/config.json").unlink()
    with pytest.raises(ConfigError, match="grpo_seed1/checkpoints/last holds no weights"):
        prepared(trained)


def test_another_evaluation_in_the_same_folder_is_not_mixed_with_this_one(single: Study):
    config = compose_components(["mode=evaluate", "evaluation.num_problems=8"], label="").config
    (single.root / "benchmarks/start").mkdir(parents=True)
    (single.root / "benchmarks/start/config.json").write_text(json.dumps({"config": config}))
    with pytest.raises(ConfigError, match=r"benchmarks/start belongs to another run: .*: choose another --out"):
        prepared(single, "evaluation.num_problems=4")


def test_results_that_would_have_no_place_are_refused(single: Study):
    (single.root / "benchmarks").write_text("a file")
    with pytest.raises(OSError, match="benchmarks"):
        prepared(single, "evaluation.num_problems=4")


def test_a_study_across_a_key_or_without_a_run_is_refused(tmp_path: Path):
    synthetic_study(tmp_path / "across", arms=["gtpo", "grpo"], num_seeds=1, num_steps=2, settings=["2", "4"])
    with pytest.raises(ConfigError, match=r"goes across task\.horizon"):
        prepared(read_study(tmp_path / "across"))
    synthetic_study(tmp_path / "empty", arms=["gtpo", "grpo"], num_seeds=1, num_steps=2)
    for summary in (tmp_path / "empty").glob("*/summary.json"):
        summary.unlink()
    with pytest.raises(ConfigError, match="none of its runs can be evaluated: has not ended"):
        prepared(read_study(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--study"),
        (["--study", "x", "--jobs", "0"], "--jobs=0: expected >= 1"),
        (["--study", "x", "--seeds", "0"], "--seeds=0: expected >= 1; seed 0 alone is written 0,"),
        (["--study", "x", "--seeds", "a"], "--seeds=a: expected a count"),
        (["--study", "x", "word"], "'word' is no override"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        benchmarks.parse(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_some_seeds_of_the_study(trained: Study):
    (trained.root / "grpo_seed0/checkpoints/last/config.json").unlink()  # nobody asks for it
    args = options(trained, "--seeds", "1,", "evaluation.num_problems=4")
    plan = benchmarks.prepare(benchmarks._study_in(trained.root, args.seeds), args)
    assert [policy.name for policy in plan.commands] == [START, "gtpo seed 1", "grpo seed 1"]
    with pytest.raises(ConfigError, match=r"--seeds: \[7\] are none of the study's, which are \[0, 1\]"):
        benchmarks._study_in(trained.root, (0, 7))


def test_what_is_composed_may_be_taken_out_again(single: Study):
    plan = prepared(single, "task=suite_words", "~task.members.gsm8k", "~task.members.svamp")
    assert all("~task.members.gsm8k" in words for words in plan.commands.values())


def test_after_ctrl_c_the_line_to_go_on_is_the_last(
    single: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stopped(commands: Any, *_: object) -> dict[Policy, int]:
        return dict.fromkeys(commands, INTERRUPTED)

    monkeypatch.setattr(benchmarks, "run_all", stopped)
    words = ["--study", str(single.root), "evaluation.num_problems=4"]
    assert benchmarks.main(words) == INTERRUPTED
    assert "stopped; to go on: make benchmarks ARGS=" in capsys.readouterr().out.splitlines()[-1]


def test_a_folder_without_a_study_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert benchmarks.main(["--study", str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err


def policies_in(folder: Path) -> list[Policy]:
    (folder / "logs").mkdir()
    return [Policy(arm="gtpo", seed=seed, folder=folder / f"gtpo_seed{seed}") for seed in (0, 1)]


def test_a_policy_that_fails_is_named_with_its_log_and_the_others_go_on(tmp_path: Path):
    console = Console(record=True, width=300)
    first, second = policies_in(tmp_path)
    commands = {first: ["nonsense=1"], second: ["--version"]}
    assert benchmarks.run_all(commands, 1, tmp_path / ".stop", console) == {first: 2, second: 0}
    said = console.export_text()
    assert "gtpo seed 0: ended with 2" in said
    assert "nonsense" in benchmarks._last_line(tmp_path / "logs/gtpo_seed0.log")
    assert "gtpo seed 1: done" in said
    assert "2 of 2" in said


def test_an_evaluation_that_was_preempted_can_go_on_and_is_not_done(tmp_path: Path):
    (policy, _), told = policies_in(tmp_path), summarise_lines([], outcome=Outcome.stopped, why="", wall_s=1.0)
    policy.folder.mkdir()
    write_summary(policy.folder, told)
    codes = benchmarks.run_all({policy: ["--version"]}, 1, tmp_path / ".stop", Console(quiet=True))  # which ends with 0
    assert codes == {policy: INTERRUPTED}


def endless(commands: Sequence[str], log: Path, stop_file: Path) -> subprocess.Popen[bytes]:
    """In the place of an evaluation, one that heeds the file where `commands` say so, and nothing else."""
    heeds = f"while not os.path.exists({str(stop_file)!r}): time.sleep(0.05)"
    code = f"import os, time\n{heeds if 'heeds' in commands else 'time.sleep(600)'}\nraise SystemExit({INTERRUPTED})"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def interrupts_after(monkeypatch: pytest.MonkeyPatch, *naps: int) -> None:
    """Has `time.sleep` of the driver interrupted at these of its calls."""
    calls, sleep = count(), time.sleep

    def interrupted(seconds: float) -> None:
        if next(calls) in naps:
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(benchmarks.time, "sleep", interrupted)


def test_ctrl_c_lets_what_runs_keep_what_it_has_and_begins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any) -> subprocess.Popen[bytes]:
        started.append(endless(*arguments))
        return started[-1]

    monkeypatch.setattr(benchmarks, "_started", start)
    interrupts_after(monkeypatch, 2)
    first, second = policies_in(tmp_path)
    codes = benchmarks.run_all({first: ["heeds"], second: ["heeds"]}, 1, tmp_path / ".stop", Console(quiet=True))
    assert codes == {first: INTERRUPTED, second: INTERRUPTED}
    assert [one.returncode for one in started] == [INTERRUPTED]


def test_a_second_ctrl_c_ends_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any) -> subprocess.Popen[bytes]:
        started.append(endless(*arguments))
        return started[-1]

    monkeypatch.setattr(benchmarks, "_started", start)
    interrupts_after(monkeypatch, 2, 4)
    commands = dict.fromkeys(policies_in(tmp_path), ())
    codes = benchmarks.run_all(commands, 2, tmp_path / ".stop", Console(quiet=True))
    assert codes == dict.fromkeys(commands, INTERRUPTED)
    assert [one.wait(30) for one in started] == [-signal.SIGKILL] * 2
    assert not (tmp_path / ".stop").exists()
