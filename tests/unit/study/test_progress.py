"""The progress of a study over folders that a test fills as runs would."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from turnwise.report.summary import EvaluationRecord, Outcome, Summary, write_summary
from turnwise.study.progress import RunState, StudyProgress
from turnwise.study.runs import Plan

PLAN = Plan(arms=("gtpo", "grpo"), seeds=(0, 1), baseline="gtpo", num_steps=4)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def folder(root: Path, arm: str, seed: int, plan: Plan = PLAN) -> Path:
    path = plan.folder(root, arm, plan.settings[0], seed)
    path.mkdir(exist_ok=True)
    return path


def log(run_dir: Path, *accuracies: float) -> None:
    """A run that has begun and made a step for each accuracy."""
    (run_dir / "config.json").write_text("{}")
    lines = [{"step": 0, "eval/arithmetic/accuracy": 0.1}]
    lines += [{"step": step, "rollout/accuracy": accuracy} for step, accuracy in enumerate(accuracies)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def end(run_dir: Path, outcome: Outcome, total_steps: int, accuracy: float = 0.5, why: str = "") -> None:
    last = EvaluationRecord(step=total_steps, accuracy=accuracy, metrics={})
    write_summary(
        run_dir,
        Summary(outcome=outcome, why=why, total_steps=total_steps, wall_s=1.0, initial=last, best=last, final=last),
    )


def shown(progress: StudyProgress) -> list[str]:
    """The rows of the table and the lines around it, a space between words."""
    console = Console(width=100)
    with console.capture() as capture:
        console.print(progress.table())
    return [" ".join(line.split()) for line in capture.get().splitlines() if line.strip()]


def test_a_study_from_its_first_step_to_its_last_run(tmp_path: Path) -> None:
    clock = Clock()
    progress = StudyProgress(PLAN, tmp_path, clock)
    assert progress.refresh() == []
    assert progress.seconds_left() is None
    assert {sight.state for sight in progress.sights.values()} == {RunState.waiting}

    log(folder(tmp_path, "gtpo", 0), 0.25, 0.75)
    clock.now += 10
    assert progress.refresh() == []
    # 2 of 4 runs x (4 steps + 1 evaluation) = 20 are done in 10 s: 18 x 5 s to go
    assert progress.seconds_left() == pytest.approx(90)
    rows = shown(progress)
    assert rows[0] == "0 of 4 runs finished"
    assert "gtpo 0/2 – seed 0: 2/4 75.0%" in rows
    assert "grpo 0/2 –" in rows
    assert rows[-1] == "0:10 gone, 1:30 left"

    log(folder(tmp_path, "gtpo", 0), 0.25, 0.75, 0.5, 0.5)
    end(folder(tmp_path, "gtpo", 0), Outcome.finished, 4, accuracy=0.625)
    log(folder(tmp_path, "grpo", 0), 0.5)
    clock.now += 10
    # 4 + 1 + 1 = 6 done in 20 s, 20 - 6 = 14 to go: 46.7 s
    assert progress.refresh() == ["gtpo seed 0: 62.5% held-out after 4 steps (1 of 4 runs, 0:47 left)"]
    assert progress.refresh() == [], "told once"

    end(folder(tmp_path, "grpo", 0), Outcome.failed, 1, why="RuntimeError: no more")
    # what failed is not waited for: 4 + 1 + 1 done in 20 s, 2 x 5 to go: 33.3 s
    assert progress.refresh() == [
        "grpo seed 0: failed after 1 steps: RuntimeError: no more (1 of 4 runs, 0:33 left)",
    ]
    rows = shown(progress)
    assert "gtpo 1/2 62.5%" in rows
    assert "grpo 0/2 – 1" in rows, "one failed"
    assert [progress.has_begun(cell) for cell in PLAN.cells()] == [True, True, False, False]
    assert [progress.has_ended(cell) for cell in PLAN.cells()] == [True, True, False, False]


def test_of_earlier_starts_only_finished_runs_count(tmp_path: Path) -> None:
    log(folder(tmp_path, "gtpo", 0), 0.5, 0.5, 0.5, 0.5)
    end(folder(tmp_path, "gtpo", 0), Outcome.finished, 4)
    log(folder(tmp_path, "gtpo", 1), 0.5, 0.5)
    end(folder(tmp_path, "gtpo", 1), Outcome.failed, 2, why="RuntimeError: no more")
    log(folder(tmp_path, "grpo", 0), 0.5, 0.5, 0.5)
    end(folder(tmp_path, "grpo", 0), Outcome.finished, 3)  # of a shorter study

    clock = Clock()
    progress = StudyProgress(PLAN, tmp_path, clock)
    assert progress.refresh() == []
    states = [progress.sights[cell].state for cell in PLAN.cells()]
    assert states == [RunState.finished, RunState.waiting, RunState.waiting, RunState.waiting]
    assert not any(progress.has_begun(cell) for cell in PLAN.cells())
    assert progress.seconds_left() is None, "nothing was done since this start"

    # The failed one is tried again and goes on after its two steps: 1 of the 3 + 2 + 5 parts that were left, in 8 s.
    log(folder(tmp_path, "gtpo", 1), 0.5, 0.5, 0.5)
    clock.now += 8
    assert progress.refresh() == []
    assert progress.sights[1, "", "gtpo"].state is RunState.running
    assert progress.seconds_left() == pytest.approx(9 * 8)


def test_settings_have_rows_of_their_own(tmp_path: Path) -> None:
    plan = Plan(arms=("gtpo",), seeds=(0,), baseline="gtpo", num_steps=1, across="task.horizon", settings=("2", "4"))
    progress = StudyProgress(plan, tmp_path)
    log(folder(tmp_path, "gtpo", 0, plan), 0.5)
    progress.refresh()
    rows = shown(progress)
    assert "gtpo horizon=2 0/1 – seed 0: 1/1 50.0%" in rows
    assert "gtpo horizon=4 0/1 –" in rows


def test_half_written_files_are_looked_at_again(tmp_path: Path) -> None:
    progress = StudyProgress(PLAN, tmp_path)
    run_dir = folder(tmp_path, "gtpo", 0)
    log(run_dir, 0.5)
    (run_dir / "metrics.jsonl").write_text('{"step": 0, "rollout/accuracy": 0.5}\n{"step": 1, "roll')
    (run_dir / "summary.json").write_text('{"outco')
    assert progress.refresh() == []
    assert progress.sights[0, "", "gtpo"].num_steps == 1
    end(run_dir, Outcome.finished, 4, accuracy=0.75)
    assert [line.partition(" (")[0] for line in progress.refresh()] == ["gtpo seed 0: 75.0% held-out after 1 steps"]
