"""The alarms of a run: health.jsonl, one object a line."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from turnwise.disk import naming
from turnwise.tracker.atomic import write_atomically

FILE = "health.jsonl"


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A figure that has been out of bounds for too long, or a step that could not be taken.

    `value` is None for what is not finite. `since` is the first step of the trouble; `to` the step that the run went
    back to, where it did, and `factor` what its learning rate is multiplied by from there on.
    """

    step: int
    monitor: str
    figure: str
    value: float | None
    bound: str
    since: int
    action: str
    to: int | None = None
    factor: float = 1.0

    @property
    def words(self) -> str:
        """What is wrong, in a line; its steps are those of metrics.jsonl and the curves, which begin with 0."""
        value = "not finite" if self.value is None else f"{self.value:.3g}"
        since = f", as since step {self.since}" if self.since != self.step else ""
        return f"{self.monitor}: {self.figure} is {value} in step {self.step}, counted from 0{since} ({self.bound})"


def append_alarm(run_dir: Path, alarm: Alarm) -> None:
    """Adds a line."""
    path = run_dir / FILE
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(alarm), allow_nan=False) + "\n")


def read_alarms(run_dir: Path) -> Iterator[Alarm]:
    """The alarms of a run in their order; a last line without its end, as a kill leaves it, is passed over.

    Raises:
        ValueError: Another line is broken; the message names the file and the line.
    """
    path = run_dir / FILE
    if path.exists():
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                yield Alarm(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: not an alarm: {line[:80].decode(errors='replace')!r}"
                ) from error


def take_back(run_dir: Path, first_step: int) -> None:
    """Forgets the alarms that a run which begins at `first_step` will meet again.

    Of the times that the run went back those count that led to no later step than this one; of what came behind the
    last of them, what belongs to earlier steps.
    """
    path = run_dir / FILE
    if not path.exists():
        return
    alarms = list(read_alarms(run_dir))
    returns = [number for number, one in enumerate(alarms) if one.to is not None and one.to <= first_step]
    behind = returns[-1] + 1 if returns else 0
    kept = [*alarms[:behind], *(one for one in alarms[behind:] if one.to is None and one.step < first_step)]
    if kept:
        write_atomically(path, "".join(json.dumps(asdict(one)) + "\n" for one in kept).encode())
    else:
        path.unlink()


def num_roll_backs(run_dir: Path) -> int:
    """How often the run went back to a checkpoint."""
    return sum(alarm.to is not None for alarm in read_alarms(run_dir))
