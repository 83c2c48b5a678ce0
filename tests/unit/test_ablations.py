"""The driver of `make ablations`: its command line, its Hydra command, and the table over fake run folders."""

import csv
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from turnwise.report.summary import EvaluationRecord, Outcome, Summary, write_summary

SCRIPT = Path(__file__).parents[2] / "experiments/ablations.py"
spec = importlib.util.spec_from_file_location("ablations", SCRIPT)
assert spec is not None
assert spec.loader is not None
ablations = importlib.util.module_from_spec(spec)
sys.modules["ablations"] = ablations
spec.loader.exec_module(ablations)


def evaluation(step: int, accuracy: float) -> EvaluationRecord:
    return EvaluationRecord(step=step, accuracy=accuracy, metrics={"eval/arithmetic/accuracy": accuracy})


def leave_run(
    out: Path, arm: str, seed: int, accuracies: tuple[float, float], *, outcome: Outcome = Outcome.finished
) -> None:
    """What a run of two steps leaves, as far as the driver reads it."""
    folder = ablations.run_folder(out, arm, seed)
    folder.mkdir(parents=True)
    first, last = evaluation(0, accuracies[0]), evaluation(2, accuracies[1])
    why = "" if outcome is Outcome.finished else "RuntimeError: no more"
    write_summary(
        folder, Summary(outcome=outcome, why=why, total_steps=2, wall_s=1.0, initial=first, best=last, final=last)
    )
    (folder / "config.json").write_text(json.dumps({"git": {"revision": "abc", "is_dirty": seed == 1}}))


Trained = Callable[[int], list[list[str]]]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Stands in for the multirun, which ends with the given code; gives the commands that it was called with."""
    commands: list[list[str]] = []

    def stand_in(exit_code: int) -> list[list[str]]:
        monkeypatch.setattr(ablations, "run_to_the_end", lambda command: commands.append(command) or exit_code)
        return commands

    return stand_in


def test_table_holds_means_and_every_seed(tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    leave_run(tmp_path, "gtpo", 0, (0.25, 0.75))
    leave_run(tmp_path, "gtpo", 1, (0.25, 0.5))
    leave_run(tmp_path, "grpo", 0, (0.25, 0.5))
    leave_run(tmp_path, "grpo", 1, (0.5, 0.25))
    trained(0)

    assert ablations.main(["--arms", "gtpo,grpo", "--steps", "2", "--out", str(tmp_path)]) == 0

    # gtpo: (0.75 + 0.5) / 2 = 0.625, gain (0.5 + 0.25) / 2; grpo: (0.5 + 0.25) / 2, gain (0.25 - 0.25) / 2
    expected = [
        ["arm", "seeds", "mean accuracy", "mean gain", "seed 0", "seed 1"],
        ["gtpo", "2", "0.6250", "+0.3750", "0.7500", "0.5000"],
        ["grpo", "2", "0.3750", "+0.0000", "0.5000", "0.2500"],
    ]
    with (tmp_path / "results.csv").open(newline="") as file:
        assert list(csv.reader(file)) == expected
    page = (tmp_path / "results.md").read_text()
    assert "| gtpo | 2 | 0.6250 | +0.3750 | 0.7500 | 0.5000 |" in page
    assert "Source: abc, abc with changes\n" in page
    assert "    make ablations ARGS='--arms gtpo,grpo --seeds 0,1 --steps 2'\n" in page
    printed = capsys.readouterr().out
    assert all(cell in printed for row in expected for cell in row)


def test_missing_and_failed_runs_are_named(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_run(tmp_path, "gtpo", 0, (0.25, 0.75))
    leave_run(tmp_path, "gtpo", 1, (0.25, 0.9), outcome=Outcome.failed)
    trained(1)

    assert ablations.main(["--arms", "gtpo,grpo", "--steps", "2", "--out", str(tmp_path)]) == 1

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no result:")]
    assert len(lines) == 3
    assert "gtpo, seed 1: failed RuntimeError: no more" in lines[0]
    assert "grpo, seed 0" in lines[1]
    assert "summary.json" in lines[1]
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert rows[1:] == ["gtpo,1,0.7500,+0.5000,0.7500,", "grpo,0,,,,"]  # the failed run's 0.9 is nowhere


def test_runs_of_another_length_do_not_count(tmp_path: Path) -> None:
    leave_run(tmp_path, "gtpo", 0, (0.25, 0.75))
    runs, missing = ablations.read_runs(tmp_path, ["gtpo"], [0], steps=5)
    assert runs == []
    assert "holds 2 steps, not 5" in missing[0]


def test_torn_summary_is_named_and_does_not_end_the_table(tmp_path: Path) -> None:
    leave_run(tmp_path, "gtpo", 0, (0.25, 0.75))
    (ablations.run_folder(tmp_path, "gtpo", 0) / "summary.json").write_text('{"outcome": "fini')
    runs, missing = ablations.read_runs(tmp_path, ["gtpo"], [0], steps=2)
    assert runs == []
    assert "summary.json is not the summary of a run" in missing[0]


def test_a_refused_command_gets_no_table(tmp_path: Path, trained: Trained) -> None:
    leave_run(tmp_path, "gtpo", 0, (0.25, 0.75))
    trained(2)
    assert ablations.main(["--arms", "gtpo", "--seeds", "0", "--steps", "2", "--out", str(tmp_path)]) == 2
    assert not (tmp_path / "results.md").exists()


def test_command_is_one_multirun_that_hydra_can_read(tmp_path: Path) -> None:
    out = tmp_path / "a folder=1"
    command = ablations.multirun_command(["gtpo", "grpo"], [0, 1], 3, out, ["rollout.num_problems=4"])
    assert command[1:3] == ["src/main.py", "--multirun"]
    overrides = OverridesParser.create().parse_overrides(command[3:])
    ((*jobs,),) = BasicSweeper.split_arguments(overrides[:-2], None)
    assert [job[:2] for job in jobs] == [
        ["ablation=gtpo", "seed=0"],
        ["ablation=gtpo", "seed=1"],
        ["ablation=grpo", "seed=0"],
        ["ablation=grpo", "seed=1"],
    ]
    assert jobs[0][2:] == ["trainer.num_steps=3", "rollout.num_problems=4"]
    assert [override.key_or_group for override in overrides[-2:]] == ["hydra.sweep.dir", "hydra.sweep.subdir"]
    assert overrides[-2].value() == str(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", ""], "no arm named; known: alpha_0_25, "),
        (["--arms", "gtpo,gtpq"], "unknown ['gtpq']; known: alpha_0_25, "),
        (["--arms", "gtpo,gtpo"], "names one twice"),
        (["--seeds", "0,x"], "--seeds=0,x: expected non-negative integers"),
        (["--seeds", ""], "--seeds=: expected non-negative integers"),
        (["--steps", "0"], "--steps=0: expected >= 1"),
        (["gtpo"], "'gtpo' is no override: expected KEY=VALUE"),
    ],
)
def test_mistakes_end_before_anything_is_trained(
    arguments: list[str], message: str, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = trained(0)
    with pytest.raises(SystemExit) as end:
        ablations.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert commands == []


def test_default_arms_are_presets() -> None:
    options = ablations.parse([])
    assert options.arms == list(ablations.ARMS)
    assert options.seeds == [0, 1]
