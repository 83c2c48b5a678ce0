"""The closing words of a run on the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from turnwise.report.evaluations import terminal_table
from turnwise.report.summary import Outcome, Summary, accuracy_changes
from turnwise.tracker.evaluations import SetResult
from turnwise.tracker.health import FILE, Alarm
from turnwise.tracker.progress import duration

_STYLES = {Outcome.finished: "bold green", Outcome.stopped: "bold yellow", Outcome.failed: "bold red"}
_ARTEFACTS = {
    "report.html": "curves, credit by turn and trajectories to read, for a browser",
    "metrics.jsonl": "the figures of each step",
    "summary.json": "this table, for programs",
    "config.json": "how the run was made",
    "evaluation.md": "every evaluation, with intervals and protocol",
    FILE: "alarms about figures that went out of bounds",
    "rolled_back": "figures and trajectories of the steps that were given up",
    "groups": "trajectories with rewards and advantages",
    "evaluations": "records, trajectories and disputed answers of each evaluation",
    "transcripts.jsonl": "what the model got right itself, as messages",
    "model": "weights in the Hugging Face layout",
    "checkpoints/last": "weights in the Hugging Face layout, and where to resume",
    "checkpoints/best": "those of the best evaluation that fell on a checkpoint",
    "tensorboard": "the figures once more, for tensorboard --logdir",
    "wandb": "what Weights & Biases has; what it was given offline goes there by wandb sync",
    "mlflow": "the number of the run at MLflow",
}


def closing_table(
    run_dir: Path, summary: Summary, results: Sequence[SetResult] = (), alarms: Sequence[Alarm] = ()
) -> RenderableType:
    """Outcome, held-out accuracy at start and end (by family where it was measured), and what lies where.

    Args:
        run_dir: The run's folder.
        summary: How the run ended.
        results: The last evaluation of each set, shown with its interval and protocol.
        alarms: About the health of the run.
    """
    is_evaluation = bool(results) and not summary.total_steps
    steps = "" if is_evaluation else f" after {summary.total_steps} steps"
    outcome = (summary.outcome.capitalize(), _STYLES[summary.outcome])
    verdict = Text.assemble(outcome, f"{steps}, {duration(summary.wall_s)}")
    if summary.why:
        verdict.append(f": {summary.why}")
    ill = [Text(line, style="yellow") for line in health_lines(alarms)]
    paths = Table.grid(padding=(0, 2))
    for name, meaning in _ARTEFACTS.items():
        path = run_dir / name
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            paths.add_row(Text(f"  {name}", no_wrap=True), Text(meaning, style="dim"))
    evaluated: list[RenderableType] = [Padding(terminal_table(results), (1, 0))] if results else []
    if summary.final is not None and not is_evaluation and summary.final.step != summary.total_steps:
        evaluated.insert(0, Text(f"The last evaluation was made after {summary.final.step} steps:", style="yellow"))
    where = Text(f"In {run_dir}:", overflow="fold")
    has_changes = summary.initial is not None and summary.initial != summary.final
    changes = [_accuracy_table(summary)] if has_changes or not results else []
    return Group("", verdict, *ill, *evaluated, *changes, where, paths, "")


def health_lines(alarms: Sequence[Alarm]) -> list[str]:
    """The last alarm of each monitor, and how often it spoke before; none for none."""
    lines = []
    for name in dict.fromkeys(alarm.monitor for alarm in alarms):
        of_name = [alarm for alarm in alarms if alarm.monitor == name]
        earlier = f"; {len(of_name) - 1} x before" if of_name[1:] else ""
        returns = sum(alarm.to is not None for alarm in of_name)
        led = f"; went back {returns} x, and what was given up lies in rolled_back/" if returns else ""
        lines.append(f"health.{of_name[-1].words}{earlier}{led}")
    return lines


def _accuracy_table(summary: Summary) -> RenderableType:
    changes = accuracy_changes(summary)
    if not changes:
        return Text("" if summary.outcome is Outcome.finished else "No evaluation was made.", style="dim")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("held-out accuracy")
    for heading in ("start", "end", "points"):
        table.add_column(heading, justify="right")
    for change in changes:
        points = "–" if change.points is None else f"{change.points:+.1f}"
        color = "" if change.points is None else "green" if change.points > 0 else "red" if change.points < 0 else ""
        table.add_row(
            Text(f"  {change.name}" if change.is_family else change.name),
            percent(change.start),
            percent(change.end),
            Text(points, style=color),
            style="" if change.is_family else "bold",
        )
    best, final = summary.best, summary.final
    if best is not None and final is not None and best.accuracy > final.accuracy:
        table.caption = f"best: {percent(best.accuracy)} after {best.step} steps"
        table.caption_justify = "left"
    return Padding(table, (1, 0))


def percent(share: float | None) -> str:
    """A share as people read it; a dash when it is not known."""
    return "–" if share is None else f"{share:.1%}"
