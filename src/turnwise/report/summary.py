"""How a run ended: summary.json."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Any

from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.evaluations import accuracies, overall_accuracy
from turnwise.tracker.files import read_metrics
from turnwise.types import Isolation


class Outcome(StrEnum):
    """How a run ended: after its last step, at a person's wish, or by an error."""

    finished = "finished"
    stopped = "stopped"
    failed = "failed"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One evaluation: after how many steps, its accuracy (the mean over the tasks), and every `eval/` figure."""

    step: int
    accuracy: float
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is left to say at the end of a run.

    `initial`, `best` (the earliest of equals) and `final` are its first, most accurate and last evaluation, None in
    a run without any. `total_steps` counts the finished steps over all starts of the run, `wall_s` their
    seconds, as far as they came to write them down. `why` says more about an outcome other than finished. `isolation`
    is the least that programs of the policy had in any start (`Isolation`), None where there were none.
    """

    outcome: Outcome
    why: str
    total_steps: int
    wall_s: float
    initial: EvaluationRecord | None
    best: EvaluationRecord | None
    final: EvaluationRecord | None
    isolation: str | None = None


def summarise_run(run_dir: Path, *, outcome: Outcome, why: str, wall_s: float) -> Summary:
    """The summary of the run whose figures lie in `run_dir`/metrics.jsonl, over all its starts."""
    summary = summarise_lines(read_metrics(run_dir), outcome=outcome, why=why, wall_s=wall_s)
    return replace(summary, isolation=weakest_isolation(run_dir))


def weakest_isolation(run_dir: Path) -> str | None:
    """The least isolation that a start noted in `run_dir`/config.json; None where no programs were run."""
    path = run_dir / "config.json"
    starts = json.loads(path.read_text(encoding="utf-8")).get("starts", []) if path.exists() else []
    noted = [Isolation[start["isolation"]] for start in starts if start.get("isolation")]
    return min(noted).name if noted else None


def summarise_lines(
    lines: Iterable[Mapping[str, float | None]], *, outcome: Outcome, why: str, wall_s: float
) -> Summary:
    """The summary of the run whose metrics.jsonl has these lines."""
    evaluations: list[EvaluationRecord] = []
    total_steps = 0
    for line in lines:
        step = int(line["step"] or 0)
        if (accuracy := overall_accuracy(line)) is not None:
            figures = {name: value for name, value in line.items() if name.startswith("eval/")}
            evaluations.append(EvaluationRecord(step=step, accuracy=accuracy, metrics=figures))
        if not all(name.startswith("eval/") for name in line.keys() - {"step"}):
            total_steps = max(total_steps, step + 1)
    return Summary(
        outcome=outcome,
        why=why,
        total_steps=total_steps,
        wall_s=wall_s,
        initial=evaluations[0] if evaluations else None,
        best=max(evaluations, key=lambda record: record.accuracy, default=None),
        final=evaluations[-1] if evaluations else None,
    )


def write_summary(run_dir: Path, summary: Summary) -> None:
    """Writes `run_dir`/summary.json, whole or not at all."""
    text = json.dumps(asdict(summary), indent=2, allow_nan=False) + "\n"
    write_atomically(run_dir / "summary.json", text.encode())


def read_summary(run_dir: Path) -> Summary:
    """What `write_summary` was given.

    Raises:
        FileNotFoundError: The run has not ended, or was killed.
        ValueError: The file holds something else.
    """
    path = run_dir / "summary.json"
    content = path.read_text(encoding="utf-8")
    try:
        fields = json.loads(content)
        for name in ("initial", "best", "final"):
            fields[name] = None if fields[name] is None else _evaluation(**fields[name])
        summary = Summary(**{**fields, "outcome": Outcome(fields["outcome"])})
        if not isinstance(summary.total_steps, int) or not _is_number(summary.wall_s):
            raise ValueError(f"total_steps={summary.total_steps!r}, wall_s={summary.wall_s!r}: expected numbers")
        return summary
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the summary of a run: {error!r}") from error


def _evaluation(*, step: Any, accuracy: Any, metrics: Any) -> EvaluationRecord:
    """An evaluation as it was read; ValueError names what is no number."""
    if not isinstance(metrics, dict):
        raise ValueError(f"metrics={metrics!r}: expected figures by name")
    for name, value in {"step": step, "accuracy": accuracy, **metrics}.items():
        if not (_is_number(value) or (value is None and name in metrics)):
            raise ValueError(f"{name}={value!r}: expected a number")
    return EvaluationRecord(step=step, accuracy=accuracy, metrics=metrics)


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and isfinite(value)


@dataclass(frozen=True, kw_only=True)
class AccuracyChange:
    """Held-out accuracy at the start and at the end, of a whole task or of one family of its problems."""

    name: str
    is_family: bool
    start: float | None
    end: float | None

    @property
    def points(self) -> float | None:
        """Percentage points gained."""
        return None if self.start is None or self.end is None else 100 * (self.end - self.start)


def accuracy_changes(summary: Summary) -> list[AccuracyChange]:
    """Each task followed by the families of its problems, from the first to the last evaluation.

    Where there is only one, nothing is known of the end.
    """
    if summary.initial is None or summary.final is None:
        return []
    start, last = summary.initial.metrics, summary.final.metrics
    end = last if summary.final.step > summary.initial.step else {}
    changes = []
    for task in accuracies(last):
        key = f"eval/{task}/accuracy"
        changes.append(AccuracyChange(name=task, is_family=False, start=start.get(key), end=end.get(key)))
        changes += [
            AccuracyChange(name=name.removeprefix(f"{key}/"), is_family=True, start=start.get(name), end=end.get(name))
            for name in last
            if name.startswith(f"{key}/")
        ]
    return changes
