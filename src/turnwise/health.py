"""Looks at the figures of every step for signs that the policy collapses."""

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import median

from turnwise.health_settings import Action, HealthSettings, Monitor
from turnwise.protocols import Metrics
from turnwise.tracker.health import Alarm

FIGURES = {
    "entropy": "loss/entropy",
    "grad_norm": "loss/grad_norm",
    "length": "rollout/num_sampled_tokens",
    "repetition": "rollout/repetition",
    "tool_use": "rollout/tool_use",
    "engine_kl": "mismatch/kl",
    "reference_kl": "loss/kl",
}
"""What each monitor looks at."""


class Collapsed(RuntimeError):
    """An alarm asks for more than a warning; its action says for what, and `more` why that cannot be."""

    def __init__(self, alarm: Alarm, more: str = "") -> None:
        super().__init__(f"health.{alarm.words}{more}")
        self.alarm = alarm


class _Course:
    """How the figure of one monitor has gone so far."""

    def __init__(self, name: str, monitor: Monitor, baseline_steps: int) -> None:
        self.monitor = monitor
        self._name = name
        self._baseline_steps = baseline_steps
        self._first: list[float] = []
        self._since: int | None = None
        self._num_bad = 0

    def follow(self, value: float | None, step: int) -> Alarm | None:
        """Takes the figure of another step; the alarm that it leads to. None is what was not finite."""
        broken = self._broken(value)
        if value is not None and math.isfinite(value) and len(self._first) < self._baseline_steps:
            self._first.append(value)
        if broken is None:
            self._since, self._num_bad = None, 0
            return None
        self._since = step if self._since is None else self._since
        self._num_bad += 1
        is_due = self._num_bad == self.monitor.patience  # a warning comes once; who goes on all the same has heard it
        if not is_due and (self._num_bad < self.monitor.patience or self.monitor.action is Action.warn):
            return None
        finite = value if value is not None and math.isfinite(value) else None
        return Alarm(
            step=step,
            monitor=self._name,
            figure=FIGURES[self._name],
            value=finite,
            bound=broken,
            since=self._since,
            action=self.monitor.action.value,
        )

    def _broken(self, value: float | None) -> str | None:
        """The bound that the figure is beyond, in words; None where all is well."""
        if value is None or not math.isfinite(value):
            return "expected a finite number"
        monitor = self.monitor
        if monitor.min is not None and value < monitor.min:
            return f"min={monitor.min:g}"
        if monitor.max is not None and value > monitor.max:
            return f"max={monitor.max:g}"
        if len(self._first) < self._baseline_steps:
            return None
        first = median(self._first)
        if monitor.min_ratio is not None and value < monitor.min_ratio * first:
            return f"min_ratio={monitor.min_ratio:g} of {first:.3g}, the median of the first steps"
        if monitor.max_ratio is not None and value > monitor.max_ratio * first > 0:
            return f"max_ratio={monitor.max_ratio:g} of {first:.3g}, the median of the first steps"
        return None


class Health:
    """Follows the figures of a run; what it knows of earlier steps it has from their lines in metrics.jsonl."""

    def __init__(
        self,
        settings: HealthSettings,
        past: Iterable[Mapping[str, float | None]] = (),
        tell: Callable[[Alarm], None] = lambda _: None,
    ) -> None:
        """Goes through the lines of `past` in silence.

        Args:
            settings: Which figures are looked at, and how far they may go.
            past: Lines of metrics.jsonl of the steps so far.
            tell: Is given each alarm that is a warning or ends the run.
        """
        self._tell = tell
        self._courses = [
            (FIGURES[name], _Course(name, monitor, settings.baseline_steps)) for name, monitor in settings.monitors()
        ]
        for line in past:
            self._follow(line, int(line["step"] or 0))

    def __call__(self, figures: Metrics, step: int) -> None:
        """Looks at the figures of a step, and tells of what is wrong.

        Raises:
            Collapsed: A monitor whose action is more than a warning.
        """
        alarms = self._follow(figures, step)
        asking = [alarm for alarm in alarms if alarm.action != Action.warn]
        first = min(asking, key=lambda alarm: alarm.action != Action.stop, default=None)  # to stop goes before
        for alarm in alarms:
            if alarm.action == Action.warn or (alarm is first and alarm.action == Action.stop):
                self._tell(alarm)
        if first is not None:
            raise Collapsed(first)

    def _follow(self, figures: Mapping[str, float | None], step: int) -> list[Alarm]:
        followed = [course.follow(figures[name], step) for name, course in self._courses if name in figures]
        return [alarm for alarm in followed if alarm is not None]
