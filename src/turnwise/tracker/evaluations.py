"""Evaluations as a run keeps them: what each came to, under which protocol, and the names of its figures."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.bundle import bundle_path, read_groups

WITHOUT_TOOL = "_without_tool"
"""Ends the name of an evaluation set that was answered without the tool."""
FOLDER = "evaluations"
"""Of a run's folder: `<set>/step_<n>.json` and the trajectories in `<set>/groups/`."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A mean over questions of numbers in [0, 1], with its 95% interval for questions like these."""

    value: float
    low: float
    high: float
    num_problems: int
    """Questions that it is the mean of."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean over questions of a difference, with its 95% interval; the same questions on both sides."""

    value: float
    low: float
    high: float
    num_problems: int


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """What one evaluation of one set came to.

    `shares` are accuracy (avg@k), `pass@k` and `majority@k`; `rates` are plain means, such as `tool_use`; `by_turns`
    is the accuracy of the trajectories that took so many turns. `tool_gain` is the accuracy with the tool less that
    without, where both were measured.
    """

    name: str
    step: int
    protocol: str
    """Twelve hexadecimal digits; two results can be compared where they are equal."""
    num_samples: int
    """Trajectories per problem."""
    shares: Mapping[str, Share]
    rates: Mapping[str, float]
    by_source: Mapping[str, Share] = field(default_factory=dict)
    by_turns: Mapping[int, Share] = field(default_factory=dict)
    turn_counts: Mapping[int, int] = field(default_factory=dict)
    """Trajectories that took so many turns."""
    tool_gain: Difference | None = None
    change: Difference | None = None
    """Accuracy less that of the run's first evaluation by the same protocol, problem by problem."""

    @property
    def accuracy(self) -> Share:
        """Mean over questions of the share of right answers."""
        return self.shares["accuracy"]

    def metrics(self) -> dict[str, float]:
        """Its figures as `eval/<set>/...`; `protocol` is the hash as a number."""
        prefix = f"eval/{self.name}"
        figures: dict[str, float] = {}
        for name, share in self.shares.items():
            figures |= {
                f"{prefix}/{name}": share.value,
                f"{prefix}/{name}_low": share.low,
                f"{prefix}/{name}_high": share.high,
            }
        figures |= {f"{prefix}/{name}": rate for name, rate in self.rates.items()}
        figures |= {f"{prefix}/accuracy_at_turns/{turns}": share.value for turns, share in self.by_turns.items()}
        figures |= {f"{prefix}/accuracy/{source}": share.value for source, share in self.by_source.items()}
        for name, difference in {"tool_gain": self.tool_gain, "change": self.change}.items():
            if difference is not None:
                figures |= {
                    f"{prefix}/{name}": difference.value,
                    f"{prefix}/{name}_low": difference.low,
                    f"{prefix}/{name}_high": difference.high,
                }
        return figures | {f"{prefix}/protocol": int(self.protocol, 16)}


@dataclass(frozen=True, kw_only=True)
class SetRecord:
    """What lies in `step_<n>.json`: the protocol in full, whose weights, and the result once there is one."""

    protocol: Mapping[str, Any]
    weights: str
    result: SetResult | None


def set_folder(run_dir: Path, name: str) -> Path:
    """Where the evaluations of a set lie in a run's folder; its trajectories are bundles in `groups/` there."""
    return run_dir / FOLDER / name


def record_path(folder: Path, step: int) -> Path:
    """The record of an evaluation in the folder of its set."""
    return folder / f"step_{step}.json"


def write_record(folder: Path, step: int, record: SetRecord) -> None:
    """Writes the record of an evaluation, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(record_path(folder, step), text.encode())


def read_record(folder: Path, step: int) -> SetRecord:
    """What `write_record` was given.

    Raises:
        FileNotFoundError: There was no such evaluation.
        ValueError: The file holds something else.
    """
    path = record_path(folder, step)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        result = None if fields["result"] is None else _result(fields["result"])
        return SetRecord(protocol=fields["protocol"], weights=fields["weights"], result=result)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of an evaluation: {error!r}") from error


def recorded_steps(folder: Path) -> list[int]:
    """Steps of which the folder of a set holds a record, in order."""
    names = (path.name.removeprefix("step_").removesuffix(".json") for path in folder.glob("step_*.json"))
    return sorted(int(name) for name in names)


def check_readable(run_dir: Path, first_step: int) -> None:
    """Reads what a run that goes on at `first_step` will compare with, so that damage is named before a step is taken.

    Raises:
        ValueError: A record, or the trajectories of a set's earliest evaluation, are damaged; names the file and what
            can be done.
    """
    for folder in (run_dir / FOLDER).glob("*"):
        steps = [step for step in recorded_steps(folder) if step < first_step]
        try:
            for step in steps:
                read_record(folder, step)
            for bundle in [path for step in steps if (path := bundle_path(folder, step)).exists()][:1]:
                read_groups(bundle)
        except ValueError as error:
            raise ValueError(
                f"{error}; put a copy of the file in its place, or remove it and go on without what it tells"
            ) from error


def take_back(run_dir: Path, first_step: int) -> None:
    """Removes the evaluations of a run from `first_step` on, which it is about to make anew, and their trajectories."""
    for folder in (run_dir / FOLDER).glob("*"):
        for step in recorded_steps(folder):
            if step >= first_step:
                bundle_path(folder, step).unlink(missing_ok=True)
                record_path(folder, step).unlink()


def read_results(run_dir: Path) -> Iterator[SetResult]:
    """Every finished evaluation of a run: set by set in the order of their names, step by step.

    Raises:
        ValueError: A record is broken; the message names the file.
    """
    for folder in sorted(path for path in (run_dir / FOLDER).glob("*") if path.is_dir()):
        for step in recorded_steps(folder):
            if (result := read_record(folder, step).result) is not None:
                yield result


def accuracies(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Set to accuracy: the figures `eval/<set>/accuracy`."""
    names = [name for name in metrics if name.startswith("eval/") and name.endswith("/accuracy")]
    return {name.removeprefix("eval/").removesuffix("/accuracy"): metrics[name] for name in names}


def counted_accuracies(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Those of `accuracies` that a run is judged by: the sets without the tool only where there are no others."""
    found = {name: value for name, value in accuracies(metrics).items() if value is not None}
    return {name: value for name, value in found.items() if not name.endswith(WITHOUT_TOOL)} or found


def overall_accuracy(metrics: Mapping[str, float | None]) -> float | None:
    """The mean of `counted_accuracies`; None of none."""
    counted = counted_accuracies(metrics)
    return fmean(counted.values()) if counted else None


def _result(fields: Mapping[str, Any]) -> SetResult:
    return SetResult(
        name=fields["name"],
        step=fields["step"],
        protocol=fields["protocol"],
        num_samples=fields["num_samples"],
        shares=_shares(fields["shares"]),
        rates=dict(fields["rates"]),
        by_source=_shares(fields["by_source"]),
        by_turns={int(turns): share for turns, share in _shares(fields["by_turns"]).items()},
        turn_counts={int(turns): count for turns, count in fields["turn_counts"].items()},
        tool_gain=_difference(fields["tool_gain"]),
        change=_difference(fields["change"]),
    )


def _difference(fields: Mapping[str, Any] | None) -> Difference | None:
    return None if fields is None else Difference(**fields)


def _shares(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Share]:
    return {name: Share(**row) for name, row in rows.items()}
