"""The diagnostics of training: by hand from two runs, and what was not logged."""

import json
from pathlib import Path
from typing import Any

from turnwise.report.summary import Outcome, summarise_run, write_summary
from turnwise.study.diagnostics import diagnostic_rows, late_steps, meanings
from turnwise.study.runs import Plan, Study, read_study, write_plan

NUM_STEPS = 10


def leave_run(root: Path, arm: str, seed: int, end: float, late: dict[str, float]) -> None:
    """A run whose figures are 0 but in the last fifth of its steps."""
    folder = root / f"{arm}_seed{seed}"
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"step": 0, "eval/chain/accuracy": 0.5}]
    for step in range(NUM_STEPS):
        figures = late if step >= 8 else dict.fromkeys(late, 0.0)
        lines.append({"step": step, "rollout/accuracy": 0.5, **figures})
    lines.append({"step": NUM_STEPS, "eval/chain/accuracy": end})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {"choices": {"ablation": arm}, "config": {"seed": seed, "trainer": {"num_steps": NUM_STEPS}}}
    (folder / "config.json").write_text(json.dumps(record))
    write_summary(folder, summarise_run(folder, outcome=Outcome.finished, why="", wall_s=1.0))


def study(root: Path, *arms: str) -> Study:
    write_plan(root, Plan(arms=arms, seeds=(0, 1), baseline=arms[0], num_steps=NUM_STEPS))
    return read_study(root)


def test_late_steps_are_averaged_and_runs_that_fell_are_counted(tmp_path: Path) -> None:
    leave_run(tmp_path, "gtpo", 0, 0.2, {"rollout/num_turns": 2.0, "rollout/format_errors": 0.1})
    leave_run(tmp_path, "gtpo", 1, 0.5, {"rollout/num_turns": 5.0, "rollout/format_errors": 0.2})
    leave_run(tmp_path, "grpo", 0, 0.6, {"rollout/num_turns": 4.0, "rollout/format_errors": 0.0})
    leave_run(tmp_path, "grpo", 1, 0.7, {"rollout/num_turns": 4.5, "rollout/format_errors": 0.0})
    assert diagnostic_rows(study(tmp_path, "gtpo", "grpo"), "") == [
        ["arm", "fell", "turns", "format errors"],
        ["gtpo", "1/2", "3.50", "15.0%"],  # 0.2 < 0.5, and 0.5 is no fall; (2 + 5) / 2; (0.1 + 0.2) / 2
        ["grpo", "0/2", "4.25", "0.0%"],
    ]


def test_what_one_arm_did_not_log_is_left_open(tmp_path: Path) -> None:
    for seed in range(2):
        leave_run(tmp_path, "gtpo", seed, 0.6, {"advantage/turn_1": -0.25})
        leave_run(tmp_path, "grpo", seed, 0.6, {})
    rows = diagnostic_rows(study(tmp_path, "gtpo", "grpo"), "")
    assert rows == [["arm", "fell", "first turn"], ["gtpo", "0/2", "-0.25"], ["grpo", "0/2", ""]]


def test_every_heading_has_a_meaning(tmp_path: Path) -> None:
    for seed in range(2):
        leave_run(tmp_path, "gtpo", seed, 0.6, {"loss/entropy": 1.0, "advantage/turn_correlation": 0.5})
    rows = diagnostic_rows(study(tmp_path, "gtpo"), "")
    assert rows[0] == ["arm", "fell", "place", "entropy"]
    assert list(meanings([rows])) == ["fell", "place", "entropy"]


def test_late_steps_in_words() -> None:
    assert late_steps(30) == "steps 24 to 29"
    assert late_steps(3) == "step 2"
