"""Runs of a study with figures of one's choice, in memory or on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from turnwise.report.summary import EvaluationRecord, Outcome, Summary, write_summary
from turnwise.study.runs import Plan, Run, Skipped, Study
from turnwise.tracker.files import FilesTracker

NUM_STEPS = 2
PROBLEMS = "sums"


def evaluation(step: int, accuracy: float, stderr: float | None = 0.01) -> EvaluationRecord:
    metrics = {f"eval/{PROBLEMS}/accuracy": accuracy, f"eval/{PROBLEMS}/accuracy_stderr": stderr}
    return EvaluationRecord(step=step, accuracy=accuracy, metrics=metrics)


def summary(final: float, *, start: float = 0.25, outcome: Outcome = Outcome.finished, why: str = "") -> Summary:
    first, last = evaluation(0, start), evaluation(NUM_STEPS, final)
    return Summary(outcome=outcome, why=why, total_steps=NUM_STEPS, wall_s=90.0, initial=first, best=last, final=last)


def record(arm: str, seed: int, **config: Any) -> dict[str, Any]:
    """A config.json of that arm; `config` replaces whole sections."""
    sections = {"seed": seed, "reward": {"shaping": arm}, "task": {"horizon": 2}, "trainer": {"dtype": "float32"}}
    return {
        "choices": {"ablation": arm},
        "config": sections | config,
        "git": {"revision": "abc", "is_dirty": False},
        "versions": {"python": "3.11", "torch": "2.13"},
        "device": {"type": "cpu", "name": "x86_64", "num_threads": 1},
    }


def lines(area: float) -> list[dict[str, float]]:
    """Two steps whose accuracies have the mean `area`."""
    return [{"step": 0, "rollout/accuracy": area - 0.125}, {"step": 1, "rollout/accuracy": area + 0.125}]


def made_study(
    finals: Mapping[str, Mapping[Any, Any]],
    *,
    baseline: str = "gtpo",
    across: str = "",
    seeds: Sequence[int] | None = None,
    root: Path = Path("study"),
) -> Study:
    """A study in memory: arm to seed to final accuracy, or arm to setting to seed; area is half of the accuracy."""
    by_setting: dict[str, dict[str, Mapping[int, float]]] = {
        arm: dict(values) if across else {"": values} for arm, values in finals.items()
    }
    settings = tuple(next(iter(by_setting.values())))
    known = sorted({seed for values in by_setting.values() for one in values.values() for seed in one})
    plan = Plan(
        arms=tuple(finals),
        seeds=tuple(known if seeds is None else seeds),
        baseline=baseline,
        num_steps=NUM_STEPS,
        across=across,
        settings=settings,
    )
    runs: list[Run] = []
    skipped: list[Skipped] = []
    for seed, setting, arm in plan.cells():
        value = by_setting[arm].get(setting, {}).get(seed)
        if value is None:
            skipped.append(Skipped(arm=arm, setting=setting, seed=seed, why="not run"))
            continue
        runs.append(
            Run(
                arm=arm,
                setting=setting,
                seed=seed,
                folder=plan.folder(root, arm, setting, seed),
                record=record(arm, seed),
                summary=summary(value),
                lines=tuple(lines(value / 2)),
            )
        )
    return Study(root=root, plan=plan, runs=tuple(runs), skipped=tuple(skipped))


def leave_run(folder: Path, arm: str, seed: int, final: float = 0.5, **config: Any) -> None:
    """What a finished run leaves in its folder."""
    tracker = FilesTracker(folder)
    for line in lines(0.5):
        tracker.log({"rollout/accuracy": line["rollout/accuracy"]}, int(line["step"]))
    tracker.close()
    (folder / "config.json").write_text(json.dumps(record(arm, seed, **config)))
    write_summary(folder, summary(final))
