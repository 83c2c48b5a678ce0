"""What a study left: its plan and its runs, read back with every figure, and a word on each run that cannot be used."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from turnwise.report.summary import EvaluationRecord, Outcome, Summary, read_summary
from turnwise.study.alike import Cell, flat, odd_ones
from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.evaluations import counted_accuracies
from turnwise.tracker.files import read_metrics
from turnwise.tracker.health import num_roll_backs

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

    def __post_init__(self) -> None:
        for name in ("arms", "seeds", "settings"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"Plan.{name}={list(values)}: expected at least one, and none twice")
        if self.num_steps < 1:
            raise ValueError(f"Plan.num_steps={self.num_steps}: expected >= 1")
        if bool(self.across) != all(self.settings):
            raise ValueError(f"Plan.settings={list(self.settings)}: expected values of Plan.across={self.across!r}")

    def cells(self) -> Iterator[Cell]:
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
    def cell(self) -> Cell:
        """Its place in the plan."""
        return self.seed, self.setting, self.arm

    @property
    def start(self) -> float:
        """Held-out accuracy before the first step."""
        return _accuracy(self.summary.initial)

    @property
    def final(self) -> float:
        """Held-out accuracy after the last step."""
        return _accuracy(self.summary.final)

    @property
    def final_stderr(self) -> float | None:
        """Standard error of `final` over the held-out problems; None where an evaluation does not say it."""
        metrics = {} if self.summary.final is None else self.summary.final.metrics
        errors = [metrics.get(f"eval/{task}/accuracy_stderr") for task in counted_accuracies(metrics)]
        known = [error for error in errors if error is not None]
        return math.hypot(*known) / len(known) if known and len(known) == len(errors) else None

    @property
    def area(self) -> float:
        """Area under the training curve, in accuracy: the mean over the steps of `rollout/accuracy`."""
        return fmean(self.series("rollout/accuracy")[1])

    @property
    def revision(self) -> str:
        """The state of the source that it was made with."""
        git = self.record.get("git")
        return git["revision"] + (" with changes" if git["is_dirty"] else "") if git else "no git checkout"

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
    """A run that the study does without, or something of it, and why."""

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
    damaged: tuple[Skipped, ...] = ()
    """Runs that count, but whose trajectories are missing or broken, as far as `kept.checked` has looked."""

    def of(self, arm: str, setting: str = "") -> list[Run]:
        """The finished runs of an arm in a setting, by seed."""
        found = [run for run in self.runs if (run.arm, run.setting) == (arm, setting)]
        return sorted(found, key=lambda run: run.seed)

    def pairs(self, arm: str, baseline: str, setting: str = "") -> list[tuple[Run, Run]]:
        """Runs of two arms with the same seed: the same problems in the same order from the same weights."""
        others = {run.seed: run for run in self.of(baseline, setting)}
        return [(run, others[run.seed]) for run in self.of(arm, setting) if run.seed in others]


def read_seeds(text: str) -> tuple[int, ...]:
    """The seeds that a command line names: `3` is a count and means 0, 1 and 2; `0,4` and `4,` are seeds.

    Raises:
        ValueError: It is neither.
    """
    words = text.removesuffix(",").split(",")
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise ValueError(f"{text}: expected a count, or non-negative integers separated by commas")
    if text.isdecimal() and int(text) == 0:
        raise ValueError("0: expected >= 1; seed 0 alone is written 0,")
    return tuple(range(int(text))) if text.isdecimal() else tuple(map(int, words))


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
    content = path.read_bytes()
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
    whys: dict[Cell, str] = {}
    for cell in plan.cells():
        seed, setting, arm = cell
        try:
            run = _read_run(plan, root, arm, setting, seed)
            _check_place(run, plan)
        except (OSError, ValueError) as error:
            whys[cell] = str(error)
        else:
            runs.append(run)
    whys |= odd_ones({run.cell: run.record["config"] for run in runs}, plan.across)
    skipped = [
        Skipped(arm=cell[2], setting=cell[1], seed=cell[0], why=whys[cell]) for cell in plan.cells() if cell in whys
    ]
    sound = [run for run in runs if run.cell not in whys]
    return Study(root=root, plan=plan, runs=tuple(sound), skipped=tuple(skipped))


def _read_run(plan: Plan, root: Path, arm: str, setting: str, seed: int) -> Run:
    """One run.

    Raises:
        ValueError: It was not started, has not ended or ended early, holds no figures, or a file of it is broken.
    """
    folder = plan.folder(root, arm, setting, seed)
    if not folder.is_dir():
        raise ValueError("not run")
    try:
        summary = read_summary(folder)
    except FileNotFoundError:
        raise ValueError("has not ended, or was killed") from None
    if summary.outcome is not Outcome.finished:
        raise ValueError(f"{summary.outcome} after {summary.total_steps} steps: {summary.why}")
    if summary.total_steps != plan.num_steps:
        raise ValueError(f"holds {summary.total_steps} steps, the study has {plan.num_steps}")
    if times := num_roll_backs(folder):
        raise ValueError(f"went back to a checkpoint {times} x (health.jsonl): from there it trained by other settings")
    run = Run(
        arm=arm,
        setting=setting,
        seed=seed,
        folder=folder,
        record=_read_record(folder),
        summary=summary,
        lines=tuple(read_metrics(folder)),
    )
    steps = [None if record is None else record.step for record in (summary.initial, summary.final)]
    if steps != [0, plan.num_steps]:
        raise ValueError(f"was evaluated first and last after {steps} steps, expected {[0, plan.num_steps]}")
    logged, _ = run.series("rollout/accuracy")
    if logged != list(range(plan.num_steps)):
        raise ValueError(f"metrics.jsonl holds rollout/accuracy of {len(logged)} steps, expected {plan.num_steps}")
    return run


def _read_record(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        record = json.loads(path.read_bytes())
        parts = {"config": record["config"]} | {
            name: record.get(name) or dict.fromkeys(_RECORDED[name]) for name in _RECORDED
        }
        for name, part in parts.items():
            if not isinstance(part, Mapping) or not set(_RECORDED.get(name, ())) <= part.keys():
                raise ValueError(f"its {name} is {part!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of a run: {error!r}") from error
    return record


_RECORDED = {"git": ("revision", "is_dirty"), "device": ("type", "name"), "versions": ()}
"""Parts of a record beside its configuration, and what each holds; they may be missing."""


def _check_place(run: Run, plan: Plan) -> None:
    """Raises ValueError where `run` is not what its folder says."""
    config = flat(run.record["config"])
    choices = run.record.get("choices")
    arm = choices.get("ablation") if isinstance(choices, Mapping) else None
    if arm is None:
        raise ValueError(f"does not say in config.json which arm it is, under choices.ablation: {run.folder}")
    found = [("ablation", arm, run.arm), ("seed", config.get("seed"), run.seed)]
    found += [(plan.across, config[plan.across], run.setting)] if plan.across in config else []
    for key, value, named in found:
        if not _are_same(str(value), str(named)):
            raise ValueError(f"has {key}={value}, but lies where {named} belongs: {run.folder}")


def _are_same(text: str, other: str) -> bool:
    """Whether two values are written alike, or are the same number."""
    try:
        return float(text) == float(other)
    except ValueError:
        return text == other


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _accuracy(record: EvaluationRecord | None) -> float:
    if record is None:
        raise ValueError("holds no evaluation")
    return record.accuracy
