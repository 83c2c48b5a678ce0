"""The script of `make gradients`: its command line, its tables of made-up gradients, and mistakes in one line."""

import csv
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from turnwise.config.gradients import StepGradients
from turnwise.config.parts import Components

SCRIPT = Path(__file__).parents[2] / "experiments/gradients.py"
spec = importlib.util.spec_from_file_location("gradients", SCRIPT)
assert spec is not None
assert spec.loader is not None
gradients = importlib.util.module_from_spec(spec)
sys.modules["gradients"] = gradients
spec.loader.exec_module(gradients)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Components]]:
    """Stands in for the sampling: gtpo goes straight to success, every other arm nowhere in particular."""
    calls: list[Mapping[str, Components]] = []

    def made_up(arms: Mapping[str, Components], num_steps: int, watch: Callable[[int], object]) -> StepGradients:
        calls.append(arms)
        east = torch.tensor([[1.0, 0.0]] * num_steps)
        around = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[:num_steps]
        rows = {arm: east if arm == "gtpo" else around for arm in arms}
        return StepGradients(arms=rows, goals={"success": east, "turns": -east}, accuracy=0.25, num_turns=5.0)

    monkeypatch.setattr(gradients, "step_gradients", made_up)
    return calls


def test_figures_in_words_and_for_programs(
    asked: list[Mapping[str, Components]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    assert gradients.main(["--arms", "gtpo,grpo", "--steps", "4", "--seed", "3", "--out", str(out)]) == 0
    assert [{name: arm.seed for name, arm in arms.items()} for arms in asked] == [{"gtpo": 3, "grpo": 3}]
    text = (out / "gradients.md").read_text()
    assert "4 independent steps of 64 trajectories" in text
    assert "25.0% of them end right, after 5.00 turns" in text
    assert "make gradients ARGS='--arms gtpo,grpo --steps 4 --seed 3'" in text
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    assert table[2][:4] == ["gtpo", "+1.00 [+1.00, +1.00]", "+1.00 [+1.00, +1.00]", ""]
    # Two steps cancel two: pairs of grpo point -1/3 alike, so that its mean step has no direction.
    assert table[3][0] == "grpo"
    assert table[3][1].startswith("-0.33 [")
    assert table[3][4] == "hidden by noise"
    rows = {tuple(row[:3]): row[3:] for row in csv.reader((out / "gradients.csv").open())}
    assert rows["gtpo", "step", "turns"] == ["-1", "-1", "-1"]
    assert rows["grpo", "ahead", "success"][0] == "-1"  # 0 for all four together, minus 1
    assert ("gtpo", "ahead", "success") not in rows
    assert "hidden by noise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", ""], "--arms: expected names of conf/ablation, each once"),
        (["--arms", "gtpo,gtpo"], "--arms: expected names of conf/ablation, each once"),
        (["--steps", "2"], "--steps=2: expected >= 3"),
        (["--seed", "-1"], "--seed=-1: expected >= 0"),
        (["task.horizon"], "'task.horizon' is no override: expected KEY=VALUE"),
        (["seed=1"], "seed=1: expected --seed 1"),
        (["ablation=grpo"], "ablation=grpo: expected --arms grpo"),
    ],
)
def test_a_mistake_on_the_command_line_ends_in_one_line(
    asked: list[Mapping[str, Components]], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        gradients.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "gtpo,gtop"], "gtop"),
        (["rollout.speed=1"], "rollout.speed: no such key"),
        (["rollout.temperature=0.5,1.0"], "rollout.temperature"),
        (["--out", "/dev/null/found"], "/dev/null"),
    ],
)
def test_a_mistake_in_the_configuration_ends_in_one_line(
    asked: list[Mapping[str, Components]], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradients.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not asked, "nothing is sampled first"
