"""The run's own files: metrics.jsonl and the trajectory bundles."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnwise.disk import naming
from turnwise.protocols import PGK, Metrics
from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.bundle import bundle_path, bundle_steps, write_groups
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class Files:
    """Keeps a run's figures and trajectories as files in its own folder, and nowhere else."""

    save_groups_every: int = 1
    """Steps between trajectory bundles; 0 keeps none. A bundle holds every token of its step."""

    def __post_init__(self) -> None:
        if self.save_groups_every < 0:
            raise ValueError(f"tracker.save_groups_every={self.save_groups_every}: expected >= 0")

    def start(self, run_dir: Path, *, first_step: int, label: str, config: Mapping[str, Any]) -> "FilesTracker":
        """Opens the files; `label` and `config` already lie in the run's folder and are not written again."""
        del label, config
        return FilesTracker(run_dir, first_step, self.save_groups_every)


class FilesTracker:
    """Writes `metrics.jsonl` and `groups/step_<n>.jsonl.gz` under `run_dir`.

    Each call of `log` gives one line, flushed at once: `step` first, then the figures in the order given; a figure
    that is not finite becomes null. A run that starts at `first_step` takes back what an earlier start wrote from
    that step on, so that a resumed run leaves the same lines as an uninterrupted one.

    Args:
        run_dir: The run's folder; made when missing.
        first_step: The first step that this start will log.
        save_groups_every: Steps between trajectory bundles; 0 writes none.
    """

    def __init__(self, run_dir: Path, first_step: int = 0, save_groups_every: int = 1) -> None:
        (run_dir / "groups").mkdir(parents=True, exist_ok=True)
        _take_back(run_dir, first_step)
        self._run_dir = run_dir
        self._save_groups_every = save_groups_every
        self._metrics = (run_dir / "metrics.jsonl").open("a", encoding="utf-8")

    def log(self, metrics: Metrics, step: int) -> None:
        """Appends one line."""
        figures = {name: _finite(value) for name, value in metrics.items()}
        with naming(self._run_dir / "metrics.jsonl"):
            self._metrics.write(json.dumps({"step": step, **figures}, allow_nan=False) + "\n")
            self._metrics.flush()

    def log_groups(self, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, step: int) -> None:
        """Writes the step's bundle when one is due."""
        if self._save_groups_every and step % self._save_groups_every == 0:
            write_groups(bundle_path(self._run_dir, step), groups, returns, advantages)

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        self._metrics.close()


def read_metrics(run_dir: Path) -> Iterator[dict[str, float | None]]:
    """The lines of a run's metrics.jsonl, `step` included; nothing when there is no such file.

    A last line without its end, as a killed run leaves it, is passed over.

    Raises:
        ValueError: Another line is broken, or a figure no number; the message names the file and the line.
    """
    path = run_dir / "metrics.jsonl"
    with suppress(FileNotFoundError):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                figures = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not a line of figures with a step: {line[:80]!r}") from error
            if not isinstance(figures, dict) or not isinstance(figures.get("step"), int):
                raise ValueError(f"{path}, line {number}: not a line of figures with a step: {line[:80]!r}")
            for name, value in figures.items():
                if value is not None and not isinstance(value, float | int):
                    raise ValueError(f"{path}, line {number}: {name}={value!r}: expected a number or null")
            yield figures


def write_metrics(run_dir: Path, lines: Iterable[Mapping[str, float | None]]) -> None:
    """Writes lines as `read_metrics` gives them, whole or not at all."""
    write_atomically(run_dir / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def _take_back(run_dir: Path, first_step: int) -> None:
    path = run_dir / "metrics.jsonl"
    if path.exists():
        write_metrics(run_dir, [line for line in read_metrics(run_dir) if (line["step"] or 0) < first_step])
    for step in bundle_steps(run_dir):
        if step >= first_step:
            bundle_path(run_dir, step).unlink()


def _finite(value: float) -> float | None:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None
