"""How a study goes, read from its folders while other processes run it: a table for a terminal, a line for each end."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import fmean

from rich import box
from rich.table import Table
from rich.text import Text

from turnwise.report.closing import percent
from turnwise.report.summary import Outcome, read_summary
from turnwise.study.alike import Cell
from turnwise.study.runs import Plan
from turnwise.tracker.files import read_metrics
from turnwise.tracker.progress import duration


class RunState(StrEnum):
    """What a run's folder shows."""

    waiting = "waiting"
    running = "running"
    stopped = "stopped"
    failed = "failed"
    finished = "finished"


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One look at a run's folder."""

    state: RunState = RunState.waiting
    num_steps: int = 0
    """Finished steps."""
    accuracy: float | None = None
    """Training accuracy of the last of them; of a finished run its held-out accuracy at the end."""
    why: str = ""
    """Of a run that ended early."""


class StudyProgress:
    """Follows the runs of a plan from now on; what earlier starts left counts only where a run had finished.

    Args:
        plan: What is run.
        root: The study's folder.
        clock: Seconds, monotonic.
    """

    def __init__(self, plan: Plan, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan = plan
        self._folders = {
            (seed, setting, arm): plan.folder(root, arm, setting, seed) for seed, setting, arm in plan.cells()
        }
        self._clock = clock
        self._started = clock()
        self._at_start = {cell: _times(folder) for cell, folder in self._folders.items()}
        self._seen: dict[Cell, tuple[int, int, int]] = {}
        self.sights = {cell: Sight() for cell in self._folders}
        self._done_before = 0
        self.refresh()
        self._done_before = self._num_done()

    def refresh(self) -> list[str]:
        """Looks again; a line for each run that has ended since."""
        ended = []
        for cell, folder in self._folders.items():
            times = _times(folder)
            if self._seen.get(cell) == times:
                continue
            before, self.sights[cell] = self.sights[cell], self._look(cell, times)
            self._seen[cell] = times
            if before.state in (RunState.waiting, RunState.running) and self.has_ended(cell):
                ended.append(cell)
        return [self.line(cell) for cell in ended]

    def has_begun(self, cell: Cell) -> bool:
        """Whether its process has recorded its configuration since this object was made."""
        return _times(self._folders[cell])[0] != self._at_start[cell][0]

    def has_ended(self, cell: Cell) -> bool:
        """Whether the last look found it finished, stopped or failed."""
        return self.sights[cell].state not in (RunState.waiting, RunState.running)

    def line(self, cell: Cell) -> str:
        """A run that has ended, and how far the study is."""
        seed, _, _ = cell
        sight = self.sights[cell]
        if sight.state is RunState.finished:
            how = f"{percent(sight.accuracy)} held-out after {sight.num_steps} steps"
        else:
            how = f"{sight.state} after {sight.num_steps} steps: {sight.why}"
        left = self.seconds_left()
        rest = "" if left is None else f", {duration(left)} left"
        return f"{self.row_name(cell)} seed {seed}: {how} ({self.num_finished()} of {len(self.sights)} runs{rest})"

    def row_name(self, cell: Cell) -> str:
        """Arm, and setting where there are several."""
        _, setting, arm = cell
        return f"{arm} {self._plan.across.split('.')[-1]}={setting}" if setting else arm

    def num_finished(self) -> int:
        """Finished runs, those of earlier starts included."""
        return sum(sight.state is RunState.finished for sight in self.sights.values())

    def seconds_left(self) -> float | None:
        """At the pace since the start, over what runs still have to do; None before the first step."""
        made = self._num_done() - self._done_before
        alive = [sight for cell, sight in self.sights.items() if not self.has_ended(cell)]
        to_go = sum(self._plan.num_steps + 1 - sight.num_steps for sight in alive)
        return (self._clock() - self._started) / made * to_go if made > 0 else None

    def table(self) -> Table:
        """Every arm (in every setting) with its runs: finished, running, failed, and the mean accuracy so far."""
        left = self.seconds_left()
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left", caption_justify="left")
        table.title = f"{self.num_finished()} of {len(self.sights)} runs finished"
        table.caption = f"{duration(self._clock() - self._started)} gone" + (f", {duration(left)} left" if left else "")
        table.add_column("arm", no_wrap=True)
        table.add_column("finished", justify="right")
        table.add_column("held-out", justify="right")
        table.add_column("failed", justify="right")
        table.add_column("running: step, training accuracy")
        rows: dict[str, list[Cell]] = {}
        for cell in self.sights:
            rows.setdefault(self.row_name(cell), []).append(cell)
        for name, cells in rows.items():
            table.add_row(name, *self._row(cells))
        return table

    def _row(self, cells: Sequence[Cell]) -> Iterable[Text]:
        sights = [self.sights[cell] for cell in cells]
        finals = [sight.accuracy for sight in sights if sight.state is RunState.finished and sight.accuracy is not None]
        num_failed = sum(sight.state is RunState.failed for sight in sights)
        running = [
            f"seed {cell[0]}: {sight.num_steps}/{self._plan.num_steps} {percent(sight.accuracy)}"
            for cell, sight in zip(cells, sights, strict=True)
            if sight.state is RunState.running
        ]
        yield Text(f"{len(finals)}/{len(cells)}", style="green" if len(finals) == len(cells) else "")
        yield Text(percent(fmean(finals) if finals else None))
        yield Text(str(num_failed or ""), style="red")
        yield Text("   ".join(running), style="cyan")

    def _look(self, cell: Cell, times: tuple[int, int, int]) -> Sight:
        """What the folder shows; a file that is just being written is looked at again when it has changed."""
        folder, at_start = self._folders[cell], self._at_start[cell]
        num_steps, accuracy = 0, None
        with suppress(ValueError):
            for line in read_metrics(folder):
                if "rollout/accuracy" in line:
                    num_steps, accuracy = int(line["step"] or 0) + 1, line["rollout/accuracy"]
        with suppress(FileNotFoundError, ValueError):
            summary = read_summary(folder)
            if summary.outcome is Outcome.finished and summary.total_steps == self._plan.num_steps and summary.final:
                return Sight(state=RunState.finished, num_steps=num_steps, accuracy=summary.final.accuracy)
            if times[1] != at_start[1]:
                return Sight(state=RunState(summary.outcome), num_steps=num_steps, accuracy=accuracy, why=summary.why)
        state = RunState.running if times[0] != at_start[0] else RunState.waiting
        return Sight(state=state, num_steps=num_steps, accuracy=accuracy)

    def _num_done(self) -> int:
        """Steps of all runs, and one for the last evaluation of each."""
        return sum(sight.num_steps + (sight.state is RunState.finished) for sight in self.sights.values())


def _times(folder: Path) -> tuple[int, int, int]:
    """When config.json, summary.json and metrics.jsonl were last written, in ns; 0 where there is none."""
    return _time(folder / "config.json"), _time(folder / "summary.json"), _time(folder / "metrics.jsonl")


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
