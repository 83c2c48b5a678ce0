"""Live figures on the terminal; plain lines where there is none."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from turnwise.protocols import PGK, Metrics
from turnwise.tracker.evaluations import WITHOUT_TOOL, overall_accuracy
from turnwise.types import ScoredGroup, ToolStatus

BARS = "▁▂▃▄▅▆▇█"
RECENT_STEPS = 10
"""Steps over which the time left and the smoothed accuracy are taken."""
CURVE_STEPS = 32
"""Steps shown in the small curves."""
WIDE = 108
"""Columns from which the figures stand in two halves."""


class ProgressTracker:
    """Shows how a run goes: a live panel on a terminal, one plain line a step anywhere else.

    Figures that a step did not log are shown as a dash. What other code prints meanwhile appears above the panel.

    Args:
        num_steps: Step at which the run ends.
        console: Where to show it; the standard output when None.
        first_step: Step at which this start begins.
        has_tool: Whether the policy has a tool, which a run that never calls it is then reminded of.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        num_steps: int,
        console: Console | None = None,
        first_step: int = 0,
        *,
        has_tool: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_steps = num_steps
        self._console = console or Console()
        self._has_tool = has_tool
        self._clock = clock
        self._next_step = first_step
        self._started = clock()
        # Tuples, replaced and never changed: the display reads them in a thread of its own.
        self._ends: tuple[float, ...] = (self._started,)
        self._accuracies: tuple[float, ...] = ()
        self._rewards: tuple[float, ...] = ()
        self._losses: tuple[float, ...] = ()
        self._figures: Metrics = {}
        self._first_evaluation: tuple[int, float] | None = None
        self._last_evaluation: tuple[int, float] | None = None
        self._held_out_loss = ""
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=2, get_renderable=self.panel)
            self._live.start()

    def log(self, metrics: Metrics, step: int) -> None:
        """Takes the figures of a finished step, or of an evaluation when all of them are `eval/` figures."""
        if metrics and all(name.startswith("eval/") for name in metrics):
            self._log_evaluation(metrics, step)
            return
        self._next_step = step + 1
        self._figures = metrics
        self._ends = (*self._ends, self._clock())[-RECENT_STEPS - 1 :]
        self._accuracies = _extended(self._accuracies, metrics.get("rollout/accuracy"))
        self._rewards = _extended(self._rewards, metrics.get("reward/turn_mean"))
        self._losses = _extended(self._losses, metrics.get("loss/value"))
        if self._live is None:
            self._print(self.line())

    def log_groups(self, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, step: int) -> None:
        """Does nothing: the figures say enough."""

    def close(self) -> None:
        """Leaves the last state on the screen; safe to call twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self) -> str:
        """The last step in one line."""
        left = self._seconds_left()
        sampled = [
            f"accuracy {self._show('rollout/accuracy', '.1%')}",
            f"reward {self._show('reward/turn_mean', '+.3f')}",
            f"turns {self._show('rollout/num_turns', '.2f')}",
            f"tools ok {self._show('tool/ok', '.0%')}",
            f"entropy {self._show('loss/entropy', '.3f')}",
            f"{self._show('throughput/sampled_tokens_per_s', ',.0f')} tokens/s",
        ]
        imitated = [
            f"loss {self._show('loss/value', '.4f')}",
            f"entropy {self._show('loss/entropy', '.3f')}",
            f"gradient norm {self._show('loss/grad_norm', '.3g')}",
            f"{self._show('throughput/trained_tokens_per_s', ',.0f')} tokens/s",
        ]
        parts = [
            f"step {self._next_step}/{self._num_steps}",
            *(imitated if self._is_imitation() else sampled),
            f"{self._show('time/step_s', '.2f')} s",
            f"left {'–' if left is None else duration(left)}",
        ]
        return "  ".join(parts)

    def panel(self) -> RenderableType:
        """The live display."""
        heading = Table.grid(padding=(0, 1), expand=True)
        heading.add_column(no_wrap=True)
        heading.add_column(ratio=1)
        heading.add_column(justify="right", no_wrap=True)
        left = self._seconds_left()
        times = f"{duration(self._clock() - self._started)} gone" + (
            f", {duration(left)} left" if left is not None else ""
        )
        bar = ProgressBar(total=max(self._num_steps, 1), completed=self._next_step)
        heading.add_row(Text(f"step {self._next_step}/{self._num_steps}", style="bold"), bar, Text(times))

        imitated = [
            ("loss", self._show("loss/value", ".4f")),
            ("", Text(curve(self._losses), style="cyan")),
            ("held-out", self._show_evaluation()),
            ("entropy", self._show("loss/entropy", ".3f")),
            ("gradient norm", self._show("loss/grad_norm", ".3g")),
            ("learnt", f"{self._show('throughput/trained_tokens_per_s', ',.0f')} tokens/s"),
        ]
        left_half = [
            ("accuracy", self._show("rollout/accuracy", ".1%") + self._show_mean_accuracy()),
            ("", Text(curve(self._accuracies, 0.0, 1.0), style="green")),
            ("reward a turn", self._show("reward/turn_mean", "+.3f")),
            ("", Text(curve(self._rewards), style="cyan")),
            ("turns", self._show("rollout/num_turns", ".2f")),
            ("step", f"{self._show('time/step_s', '.2f')} s"),
        ]
        right_half = [
            ("held-out", self._show_evaluation()),
            ("tools", self._show_tools()),
            ("no-signal groups", self._show("advantage/zero_groups", ".0%")),
            ("entropy", self._show("loss/entropy", ".3f")),
            ("gradient norm", self._show("loss/grad_norm", ".3g")),
            ("sampled", f"{self._show('throughput/sampled_tokens_per_s', ',.0f')} tokens/s"),
        ]
        figures = Table.grid(padding=(0, 2))
        is_wide = self._console.width >= WIDE and not self._is_imitation()
        for _ in range(2 if is_wide else 1):
            figures.add_column(style="dim", no_wrap=True, min_width=16)
            figures.add_column(no_wrap=True, min_width=CURVE_STEPS)
        if is_wide:
            for left_row, right_row in zip(left_half, right_half, strict=True):
                figures.add_row(*left_row, *right_row)
        else:
            for row in imitated if self._is_imitation() else left_half + right_half:
                figures.add_row(*row)
        return Panel(Group(heading, "", figures), title="turnwise", title_align="left", border_style="dim")

    def _log_evaluation(self, metrics: Metrics, step: int) -> None:
        accuracy = overall_accuracy(metrics)
        if accuracy is None:
            losses = [value for name, value in metrics.items() if name.endswith("/nll")]
            self._held_out_loss = f"loss {fmean(losses):.4f} after {step} steps" if losses else ""
            if losses and self._live is None:
                self._print(f"held-out {self._held_out_loss}")
            return
        if self._last_evaluation is None and (warning := no_use(metrics, has_tool=self._has_tool)):
            self._print(f"warning: {warning}")
        self._last_evaluation = (step, accuracy)
        self._first_evaluation = self._first_evaluation or self._last_evaluation
        if self._live is None:
            self._print(f"held-out accuracy {self._show_evaluation()}")

    def _show_evaluation(self) -> str:
        if self._last_evaluation is None or self._first_evaluation is None:
            return self._held_out_loss or "–"
        step, accuracy = self._last_evaluation
        gain = (
            "" if step == self._first_evaluation[0] else f", {100 * (accuracy - self._first_evaluation[1]):+.1f} points"
        )
        return f"{accuracy:.1%} after {step} steps{gain}"

    def _show_mean_accuracy(self) -> str:
        recent = self._accuracies[-RECENT_STEPS:]
        return f"   mean of {len(recent)}: {fmean(recent):.1%}" if len(recent) > 1 else ""

    def _show_tools(self) -> str:
        shares = {status: self._figures.get(f"tool/{status}", 0.0) for status in ToolStatus}
        shown = [f"{share:.0%} {status.replace('_', ' ')}" for status, share in shares.items() if share]
        return ", ".join(shown) or "–"

    def _is_imitation(self) -> bool:
        """Whether the last step learnt without sampling."""
        return "throughput/trained_tokens_per_s" in self._figures

    def _show(self, name: str, format_spec: str) -> str:
        return format(self._figures[name], format_spec) if name in self._figures else "–"

    def _seconds_left(self) -> float | None:
        ends = self._ends
        return (ends[-1] - ends[0]) / (len(ends) - 1) * (self._num_steps - self._next_step) if len(ends) > 1 else None

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def no_use(metrics: Metrics, *, has_tool: bool) -> str:
    """What an evaluation says of a run that has nothing to learn from; empty where it may have something."""
    with_tool = {name: value for name, value in metrics.items() if WITHOUT_TOOL not in name}
    turns, calls = (
        [value for name, value in with_tool.items() if name.endswith(ending)] for ending in ("/num_turns", "/tool_use")
    )
    if turns and not any(turns):
        return "no prompt of the evaluation leaves room for a turn: raise rollout.max_tokens, or shorten the prompts"
    if has_tool and calls and not any(calls):
        return (
            "no trajectory of the evaluation calls the tool: does the model's prompt say how, in the format that "
            "env.tool_format reads? The trajectories are in report.html"
        )
    return ""


def curve(values: Sequence[float], low: float | None = None, high: float | None = None) -> str:
    """A curve of block characters between `low` and `high`, by default the smallest and largest value."""
    if not values:
        return ""
    low = min(values) if low is None else low
    high = max(values) if high is None else high
    span = (high - low) or 1.0
    return "".join(BARS[min(int((value - low) / span * len(BARS)), len(BARS) - 1)] for value in values)


def duration(seconds: float) -> str:
    """A time as people write it: 0:07, 3:20 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _extended(values: tuple[float, ...], value: float | None) -> tuple[float, ...]:
    return (*values, value)[-CURVE_STEPS:] if value is not None and math.isfinite(value) else values
