"""Compares the gradients that the arms make of the very same trajectories of one policy, which stays as it is.

    make gradients ARGS="--arms gtpo,grpo,no_discount --steps 24 experiment=chain task.horizon=6"

For each arm: how much of a step's gradient is signal, and whether step and expectation point towards higher accuracy
and towards more turns. docs/STATISTICS.md says how. `model.path=FOLDER` takes another policy than the warm start.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from turnwise.config.errors import ConfigError, building
from turnwise.config.gradients import StepGradients, step_gradients
from turnwise.config.provenance import describe_run
from turnwise.config.stopping import INTERRUPTED
from turnwise.config.sweep import compose_components
from turnwise.study.directions import MIN_STEPS, Direction, directions
from turnwise.study.estimates import Estimate
from turnwise.study.tables import Rows, csv_text, markdown
from turnwise.tracker.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]
ARMS = ("gtpo", "grpo", "no_discount", "pool_turn_index", "end_aligned")
NUM_STEPS = 24
NUM_SHOWN = 5
"""Columns on the terminal."""
COLUMNS = {
    "signal": "mean cosine between the gradients of two steps: the share of a step that is no noise",
    "step": "mean cosine between the gradient of a step and the direction in which the goal grows fastest",
    "ahead": "step of the arm minus that of the first arm; made of the same trajectories, much of their noise cancels",
    "expectation": "that cosine of the mean step: what is left when noise averages out, near 1 without bias",
    "success": "the goal is the expected accuracy",
    "turns": "the goal is the expected number of turns; below 0 the policy learns to stop sooner",
}
"""What the figures mean; brackets hold 95% intervals by the jackknife over steps."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Samples, differentiates, compares; exit code 2 for a mistake."""
    console = Console()
    options = parse(arguments)
    try:
        words = [*options.words, f"seed={options.seed}"]
        arms = {arm: compose_components([f"ablation={arm}", *words], label=arm) for arm in options.arms}
        with building():
            options.out.mkdir(parents=True, exist_ok=True)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("steps", total=options.steps)
            found = step_gradients(arms, options.steps, lambda done: progress.update(bar, completed=done))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    compared = directions(found.arms, found.goals)
    rows = direction_rows(compared)
    record = describe_run(next(iter(arms.values())), choices={}, overrides=options.words)
    write_atomically(options.out / "gradients.md", report(options, found, rows, record).encode())
    write_atomically(options.out / "gradients.csv", csv_text(figure_rows(compared)).encode())
    path = options.out / "gradients.md"
    console.print(as_table(rows), f"\nall of it, and what it means: {path}", soft_wrap=True, highlight=False)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a mistake in it ends with one line on it and exit code 2, before anything is sampled."""
    parser = argparse.ArgumentParser(
        prog="gradients",
        usage="%(prog)s [--arms A,B] [--steps N] [--seed N] [--out FOLDER] [KEY=VALUE ...]",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument(
        "--arms", default=",".join(ARMS), help="presets of conf/ablation, with commas (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="independent steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of problems and samples (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/gradients/<now>)")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides for all arms")
    options = parser.parse_intermixed_args(arguments)
    options.arms = tuple(filter(None, options.arms.split(",")))
    if not options.arms or len(set(options.arms)) < len(options.arms):
        parser.error("--arms: expected names of conf/ablation, each once")
    if options.steps < MIN_STEPS:
        parser.error(f"--steps={options.steps}: expected >= {MIN_STEPS}")
    if options.seed < 0:
        parser.error(f"--seed={options.seed}: expected >= 0")
    for word in options.words:
        key, equals, value = word.partition("=")
        if not equals:
            parser.error(f"{word!r} is no override: expected KEY=VALUE")
        if (option := {"seed": "--seed", "ablation": "--arms"}.get(key)) is not None:
            parser.error(f"{word}: expected {option} {value}")
    options.out = (options.out or ROOT / f"runs/gradients/{datetime.now():%Y-%m-%d_%H-%M-%S}").expanduser().absolute()
    return options


def direction_rows(compared: Sequence[Direction]) -> Rows:
    """An arm a row, for people to read; a figure with its 95% interval."""
    goals = list(compared[0].step)
    by_goal = [f"{name}, {goal}" for goal in goals for name in ("step", f"ahead of {compared[0].arm}", "expectation")]
    rows = [["arm", "signal", *by_goal]]
    for one in compared:
        figures = [figure for goal in goals for figure in (one.step[goal], one.ahead.get(goal), one.expectation[goal])]
        rows.append([one.arm, _shown(one.signal), *("" if figure is None else _shown(figure) for figure in figures)])
    return rows


def figure_rows(compared: Sequence[Direction]) -> Rows:
    """A figure a row, as it is; for programs."""
    rows = [["arm", "figure", "goal", "value", "low", "high"]]
    for one in compared:
        figures = [("signal", "", one.signal)]
        for name, by_goal in (("step", one.step), ("ahead", one.ahead), ("expectation", one.expectation)):
            figures += [(name, goal, figure) for goal, figure in by_goal.items()]
        for name, goal, figure in figures:
            ends = [f"{figure.low:.6g}", f"{figure.high:.6g}"] if figure.has_interval else ["", ""]
            rows.append([one.arm, name, goal, f"{figure.value:.6g}", *ends])
    return rows


def report(options: argparse.Namespace, found: StepGradients, rows: Rows, record: Mapping[str, Any]) -> str:
    """The text of gradients.md."""
    words = [
        "--arms",
        ",".join(options.arms),
        "--steps",
        str(options.steps),
        "--seed",
        str(options.seed),
        *options.words,
    ]
    git = record["git"]
    source = git["revision"] + (" with changes" if git["is_dirty"] else "") if git else "no git checkout"
    per_step = record["config"]["rollout"]["num_problems"] * record["config"]["rollout"]["group_size"]
    return "\n".join(
        [
            "# Where the gradients of a step point\n",
            f"{options.steps} independent steps of {per_step} trajectories, all from one policy "
            f"({record['config']['model']['path']}): {100 * found.accuracy:.1f}% of them end right, after "
            f"{found.num_turns:.2f} turns in the mean. Every arm makes its gradient of the same trajectories.\n",
            markdown(rows),
            *(f"- **{name}**: {text}." for name, text in COLUMNS.items()),
            f"\n    make gradients ARGS={shlex.quote(shlex.join(words))}\n",
            f"Source {source}. gradients.csv holds every figure; docs/STATISTICS.md says how they are made.\n",
        ]
    )


def as_table(rows: Rows) -> Table:
    """What tells most, for a terminal: signal and the steps towards the first goal."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for place, heading in enumerate(rows[0][:NUM_SHOWN]):
        table.add_column(heading, justify="right" if place else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row[:NUM_SHOWN]))
    return table


def _shown(figure: Estimate) -> str:
    if not figure.has_interval:  # without one step or another there is nothing left to compare
        return "hidden by noise"
    return f"{figure.value:+.2f} [{figure.low:+.2f}, {figure.high:+.2f}]"


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
