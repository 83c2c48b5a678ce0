"""The table of a run's evaluations: on the terminal, in evaluation.md and in report.html."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.evaluations import Difference, SetResult, Share, read_results

NONE = "–"
ABOUT = (
    "Accuracy is the mean over problems of the share of right answers (avg@k), in percent, with the 95% interval for "
    "problems like these, clustered by problem. Numbers can be compared where their protocols are equal: the same "
    "problems, prompts, tool, limits, sampling and grader."
)
"""What the numbers are, in words."""


@dataclass(frozen=True, kw_only=True)
class Tabular:
    """Headings and cells of a table, as text; the first column is of names."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def last_results(results: Sequence[SetResult]) -> list[SetResult]:
    """The last evaluation of each set."""
    return list({result.name: result for result in sorted(results, key=lambda one: one.step)}.values())


def figures_table(results: Sequence[SetResult]) -> Tabular:
    """One row a result; columns that say nothing of any are left out."""
    names = list(dict.fromkeys(name for result in results for name in result.shares if name != "accuracy"))
    columns = {
        "set": [result.name for result in results],
        "steps": [str(result.step) if len({one.step for one in results}) > 1 else NONE for result in results],
        "problems": [str(result.accuracy.num_problems) for result in results],
        "samples": [str(result.num_samples) for result in results],
        "accuracy": [interval(result.accuracy) for result in results],
        **{name: [interval(result.shares.get(name)) for result in results] for name in names},
        "gain by tool": [interval(result.tool_gain, sign="+") for result in results],
        "turns": [_rate(result, "num_turns", "{:.2f}") for result in results],
        "tool use": [_rate(result, "tool_use") for result in results],
        "tool errors": [_rate(result, "tool_errors") for result in results],
        "cut": [_rate(result, "truncated") for result in results],
        "tokens/answer": [_rate(result, "tokens_per_answer", "{:.0f}") for result in results],
        "excluded": [_rate(result, "excluded") if result.rates["excluded"] else NONE for result in results],
        "graders differ": [_rate(result, "disagreement") for result in results],
        "protocol": [result.protocol for result in results],
    }
    told = {heading: cells for heading, cells in columns.items() if any(cell != NONE for cell in cells)}
    return Tabular(headings=list(told), rows=list(zip(*told.values(), strict=True)))


def turns_table(results: Sequence[SetResult]) -> Tabular:
    """Accuracy by the number of turns that a trajectory took, with how many did."""
    most = max((turns for result in results for turns in result.by_turns), default=0)
    rows = [
        [
            result.name,
            *(
                f"{interval(result.by_turns[turns])} of {result.turn_counts[turns]}" if turns in result.by_turns else NONE
                for turns in range(most + 1)
            ),
        ]
        for result in results
    ]
    used = [0, *(column for column in range(1, most + 2) if any(row[column] != NONE for row in rows))]
    headings = ["set", *(f"{turns} turn{'' if turns == 1 else 's'}" for turns in range(most + 1))]
    return Tabular(headings=[headings[i] for i in used], rows=[[row[i] for i in used] for row in rows])


def interval(share: Share | Difference | None, sign: str = "") -> str:
    """A number and its interval in percent (points for a difference)."""
    if share is None:
        return NONE
    value, low, high = (f"{100 * number:{sign}.1f}" for number in (share.value, share.low, share.high))
    return f"{value} [{low}, {high}]"


def terminal_table(results: Sequence[SetResult]) -> Table:
    """The figures as the terminal shows them."""
    tabular = figures_table(results)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, caption_justify="left")
    for place, heading in enumerate(tabular.headings):
        table.add_column(heading, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in tabular.rows:
        table.add_row(*map(Text, row))
    return table


def write_table(run_dir: Path) -> list[SetResult]:
    """Writes `run_dir`/evaluation.md, every evaluation of the run in one table, and gives the last of each set.

    Without a finished evaluation nothing is written.

    Raises:
        ValueError: A record is broken; the message names the file.
    """
    results = list(read_results(run_dir))
    if results:
        last = last_results(results)
        parts = ["# Evaluation", _markdown(figures_table(results)), ABOUT]
        parts += ["## Accuracy by the number of turns", _markdown(turns_table(last))]
        write_atomically(run_dir / "evaluation.md", ("\n\n".join(parts) + "\n").encode())
    return last_results(results)


def _markdown(tabular: Tabular) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join(["---", *("---:" for _ in tabular.headings[1:])]) + "|"
    return "\n".join([line(tabular.headings), rule, *map(line, tabular.rows)])


def _rate(result: SetResult, name: str, form: str = "") -> str:
    if name not in result.rates:
        return NONE
    value = result.rates[name]
    return form.format(value) if form else f"{value:.1%}"
