"""The driver of `make benchmarks`: its command line, what it evaluates, and what it refuses before it begins."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from synthetic_study import synthetic_study
from turnwise.config.errors import ConfigError
from turnwise.config.stopping import INTERRUPTED
from turnwise.config.sweep import compose_components
from turnwise.study.benchmarks import START, Policy
from turnwise.study.runs import Study, read_study

SCRIPT = Path(__file__).parents[2] / "experiments/benchmarks.py"
spec = importlib.util.spec_from_file_location("benchmarks", SCRIPT)
assert spec is not None
assert spec.loader is not None
benchmarks = importlib.util.module_from_spec(spec)
sys.modules["benchmarks"] = benchmarks
spec.loader.exec_module(benchmarks)


@pytest.fixture
def trained(tmp_path: Path) -> Study:
    """A study of the tiny policy, of two arms with two seeds, as far as the driver reads it."""
    root = tmp_path / "study"
    synthetic_study(root, arms=["gtpo", "grpo"], num_seeds=2, num_steps=2)
    model = compose_components([], label="tiny").config["model"]
    for run in read_study(root).runs:
        record = {**run.record, "config": {**run.record["config"], "model": model}}
        (run.folder / "config.json").write_text(json.dumps(record))
        (run.folder / "checkpoints" / "last").mkdir(parents=True)
    return read_study(root)


def prepared(study: Study, *words: str) -> dict[Policy, list[str]]:
    return benchmarks.prepare(study, benchmarks.parse(["--study", str(study.root), *words]))


def test_the_start_comes_first_and_then_every_run(trained: Study):
    commands = prepared(trained, "evaluation.num_problems=4")
    assert [policy.name for policy in commands] == [START, "gtpo seed 0", "grpo seed 0", "gtpo seed 1", "grpo seed 1"]
    start, first, *_ = commands.values()
    assert start[:2] == ["mode=evaluate", "evaluation.num_problems=4"]
    assert start[2] == "model.path='package:tiny'"
    assert first[2] == f"model.path='{trained.root}/gtpo_seed0/checkpoints/last'"
    assert first[3] == f"hydra.run.dir='{trained.root}/benchmarks/gtpo_seed0'"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.system_prompt=Think."], r"model.system_prompt is '.*' in gtpo_seed0 and 'Think\.' here"),
        (["evaluation.num_problems=no"], "num_problems"),
        (["task=svamp", "task.path=/nowhere"], "/nowhere"),
    ],
)
def test_what_would_be_refused_later_is_refused_at_once(trained: Study, words: list[str], message: str):
    with pytest.raises((ConfigError, OSError), match=message):
        prepared(trained, *words)


def test_the_number_of_threads_may_differ(trained: Study):
    assert prepared(trained, "model.num_threads=1", "evaluation.num_problems=4")


def test_weights_that_are_gone_are_named(trained: Study):
    (trained.root / "grpo_seed1/checkpoints/last").rmdir()
    with pytest.raises(ConfigError, match="grpo_seed1 has no checkpoints/last"):
        prepared(trained)


def test_a_study_across_a_key_or_without_a_run_is_refused(tmp_path: Path):
    synthetic_study(tmp_path / "across", arms=["gtpo", "grpo"], num_seeds=1, num_steps=2, settings=["2", "4"])
    with pytest.raises(ConfigError, match=r"goes across task\.horizon"):
        prepared(read_study(tmp_path / "across"))
    synthetic_study(tmp_path / "empty", arms=["gtpo", "grpo"], num_seeds=1, num_steps=2)
    for summary in (tmp_path / "empty").glob("*/summary.json"):
        summary.unlink()
    with pytest.raises(ConfigError, match="no run of it is finished"):
        prepared(read_study(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--study"),
        (["--study", "x", "model.path=y"], "model.path=y: which policy is evaluated"),
        (["--study", "x", "hydra.run.dir=y"], "which policy is evaluated"),
        (["--study", "x", "mode=train"], "which policy is evaluated"),
        (["--study", "x", "--jobs", "0"], "--jobs=0: expected >= 1"),
        (["--study", "x", "word"], "'word' is no override"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        benchmarks.parse(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_study_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert benchmarks.main(["--study", str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_policy_that_fails_is_named_with_its_log_and_the_others_go_on(tmp_path: Path):
    console = Console(record=True, width=300)
    policies = [Policy(arm="gtpo", seed=seed, folder=tmp_path / f"gtpo_seed{seed}") for seed in (0, 1)]
    commands = {policies[0]: ["nonsense=1"], policies[1]: ["--help"]}
    assert benchmarks.run_all(commands, jobs=1, console=console) == {"gtpo seed 0": 2, "gtpo seed 1": 0}
    said = console.export_text()
    assert f"gtpo seed 0: ended with 2, see {tmp_path}/logs/gtpo_seed0.log" in said
    assert "nonsense" in (tmp_path / "logs/gtpo_seed0.log").read_text()
    assert "gtpo seed 1: evaluated" in said


def test_ctrl_c_stops_what_runs_and_begins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    policies = [Policy(arm="gtpo", seed=seed, folder=tmp_path / str(seed)) for seed in (0, 1)]
    calls = iter([KeyboardInterrupt()])

    def sleep(seconds: float) -> None:
        for one in calls:
            raise one

    monkeypatch.setattr(benchmarks.time, "sleep", sleep)
    codes = benchmarks.run_all({policy: ["--help"] for policy in policies}, jobs=1, console=Console(quiet=True))
    assert codes == dict.fromkeys(["gtpo seed 0", "gtpo seed 1"], INTERRUPTED)
    assert not (tmp_path / "logs/1.log").exists()
