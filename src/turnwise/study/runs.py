"""What a study left: its plan and its runs, read back with every figure, and a word on each run that cannot be used."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from turnwise.report.summary import EvaluationRecord, Outcome, Summary, read_summary
from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.files import read_metrics

Line = Mapping[str, float | None]
"""One line of metrics.jsonl."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study set out to run: every arm in every setting with every seed. Lies in the folder as study.json."""

    arms: tuple[str, ...]
    """Presets of conf/ablation."""
    seeds: tuple[int, ...]
    """Seeds that every arm runs with: the same problems in the same order from the same weights."""
    baseline: str
    """The arm that the others are compared with."""
    num_steps: int
    """Steps of a run."""
    across: str = ""
    """The configuration key that the study goes across, such as `task.horizon`; empty: a single setting."""
    settings: tuple[str, ...] = ("",)
    """Values of `across`, in order."""
    overrides: tuple[str, ...] = ()
    """`KEY=VALUE` for every run."""

    def cells(self) -> Iterator[tuple[int, str, str]]:
        """(seed, setting, arm) of every run, seeds outermost, so that a study cut short is balanced."""
        yield from product(self.seeds, self.settings, self.arms)

    def folder(self, root: Path, arm: str, setting: str, seed: int) -> Path:
        """Where a run's files lie."""
        return root / "_".join(filter(None, [arm, setting and f"{self.across.split('.')[-1]}{setting}", f"seed{seed}"]))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run of a study."""

    arm: str
    setting: str
    seed: int
    folder: Path
    record: Mapping[str, Any]
    """Its config.json."""
    summary: Summary
    lines: tuple[Line, ...]
    """Its metrics.jsonl: one line a step, and one more for each evaluation."""

    @property
    def start(self) -> float:
        """Held-out accuracy before the first step."""
        return _accuracy(self.summary.initial)

    @property
    def final(self) -> float:
        """Held-out accuracy after the last step."""
        return _accuracy(self.summary.final)

    @property
    def area(self) -> float:
        """Area under the training curve, in accuracy: the mean over the steps of `rollout/accuracy`."""
        return fmean(self.series("rollout/accuracy")[1])

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one figure, where it was logged and is a number."""
        pairs = [
            (int(line["step"] or 0), value)
            for line in self.lines
            if (value := line.get(name)) is not None and math.isfinite(value)
        ]
        return [step for step, _ in pairs], [value for _, value in pairs]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A run of the plan that the study does without, and why."""

    arm: str
    setting: str
    seed: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """A plan and what became of it; `runs` and `skipped` together are the whole plan, in its order."""

    root: Path
    plan: Plan
    runs: tuple[Run, ...]
    skipped: tuple[Skipped, ...]

    def of(self, arm: str, setting: str = "") -> list[Run]:
        """The finished runs of an arm in a setting, by seed."""
        found = [run for run in self.runs if (run.arm, run.setting) == (arm, setting)]
        return sorted(found, key=lambda run: run.seed)

    def pairs(self, arm: str, baseline: str, setting: str = "") -> list[tuple[Run, Run]]:
        """Runs of two arms with the same seed: the same problems in the same order from the same weights."""
        others = {run.seed: run for run in self.of(baseline, setting)}
        return [(run, others[run.seed]) for run in self.of(arm, setting) if run.seed in others]


def write_plan(root: Path, plan: Plan) -> None:
    """Writes `root`/study.json."""
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(root / "study.json", (json.dumps(asdict(plan), indent=2) + "\n").encode())


def read_plan(root: Path) -> Plan:
    """What `write_plan` was given.

    Raises:
        FileNotFoundError: There is no study in `root`.
        ValueError: The file holds something else.
    """
    path = root / "study.json"
    content = path.read_text(encoding="utf-8")
    try:
        fields: dict[str, Any] = json.loads(content)
        return Plan(**{name: _as_tuple(value) for name, value in fields.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the plan of a study: {error!r}") from error


def read_study(root: Path) -> Study:
    """Reads every run of the plan in `root`; one that is missing, broken or of another configuration is skipped.

    Raises:
        FileNotFoundError: There is no study in `root`.
        ValueError: study.json is broken.
    """
    plan = read_plan(root)
    runs: list[Run] = []
    skipped: list[Skipped] = []
    for seed, setting, arm in plan.cells():
        try:
            run = _read_run(plan, root, arm, setting, seed)
            _check_comparable(run, runs, plan)
        except (OSError, ValueError) as error:
            why = "not run" if isinstance(error, FileNotFoundError) else str(error)
            skipped.append(Skipped(arm=arm, setting=setting, seed=seed, why=why))
        else:
            runs.append(run)
    return Study(root=root, plan=plan, runs=tuple(runs), skipped=tuple(skipped))


def _read_run(plan: Plan, root: Path, arm: str, setting: str, seed: int) -> Run:
    """One run.

    Raises:
        FileNotFoundError: It was not started, or has not ended.
        ValueError: It ended early, holds no figures, or a file of it is broken.
    """
    folder = plan.folder(root, arm, setting, seed)
    summary = read_summary(folder)
    if summary.outcome is not Outcome.finished:
        raise ValueError(f"{summary.outcome} after {summary.total_steps} steps: {summary.why}")
    if summary.total_steps != plan.num_steps:
        raise ValueError(f"holds {summary.total_steps} steps, the study has {plan.num_steps}")
    record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    lines = tuple(read_metrics(folder))
    run = Run(arm=arm, setting=setting, seed=seed, folder=folder, record=record, summary=summary, lines=lines)
    if summary.initial is None or summary.final is None:
        raise ValueError("holds no evaluation")
    if len(run.series("rollout/accuracy")[0]) != plan.num_steps:
        raise ValueError(f"metrics.jsonl holds {len(run.series('rollout/accuracy')[0])} of {plan.num_steps} steps")
    return run


_OF_ARM = ("advantage", "loss", "reward", "seed")
"""Sections of a configuration in which arms may differ; the others decide what is solved, and how it is judged."""


def _check_comparable(run: Run, others: Sequence[Run], plan: Plan) -> None:
    """Raises ValueError where `run` differs from the runs before it in more than its arm, setting and seed."""
    for other in others:
        is_same_arm = other.arm == run.arm
        own, theirs = (
            {key: value for key, value in flat(one.record["config"]).items() if key not in ("seed", plan.across)}
            for one in (run, other)
        )
        for key in sorted(own.keys() | theirs.keys()):
            if own.get(key) != theirs.get(key) and (is_same_arm or key.split(".")[0] not in _OF_ARM):
                where = f"{other.arm}, seed {other.seed}"
                raise ValueError(f"has {key}={own.get(key)}, the run of {where} has {theirs.get(key)}")
        if is_same_arm:
            return  # whatever comes after was compared with this one


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as `{"reward.shaping": True, ...}`."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _accuracy(record: EvaluationRecord | None) -> float:
    if record is None:
        raise ValueError("holds no evaluation")
    return record.accuracy
