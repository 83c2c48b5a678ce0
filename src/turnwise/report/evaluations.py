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
FIRST = "accuracy"
"""The share that every result has and that stands before all others."""
MOST_SIDE_BY_SIDE = 3
"""Sets that the terminal shows in columns, a figure a line."""
OF_MANY = ("set", "problems", "samples", "accuracy", "gain by tool", "change", "cut", "excluded", "protocol")
"""What the terminal shows of more sets."""
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
    besides = dict.fromkeys(figure for result in results for figure in result.shares if figure != FIRST)
    columns = {
        "set": [result.name for result in results],
        "steps": [str(result.step) if len({one.step for one in results}) > 1 else NONE for result in results],
        "problems": [str(result.accuracy.num_problems) for result in results],
        "samples": [str(result.num_samples) for result in results],
        "accuracy": [interval(result.accuracy) for result in results],
        **{figure: [_of_fewer(result, figure) for result in results] for figure in besides},
        "gain by tool": [interval(result.tool_gain, sign="+") for result in results],
        "change": [interval(result.change, sign="+") for result in results],
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
    used = sorted({turns for result in results for turns in result.by_turns})

    def cell(result: SetResult, turns: int) -> str:
        known = turns in result.by_turns
        return f"{interval(result.by_turns[turns])} of {result.turn_counts[turns]}" if known else NONE

    return Tabular(
        headings=["set", *(f"{turns} turn{'' if turns == 1 else 's'}" for turns in used)],
        rows=[[result.name, *(cell(result, turns) for turns in used)] for result in results],
    )


def interval(share: Share | Difference | None, sign: str = "") -> str:
    """A number and its interval in percent (points for a difference)."""
    if share is None:
        return NONE
    value, low, high = (f"{100 * number:{sign}.1f}" for number in (share.value, share.low, share.high))
    return f"{value} [{low}, {high}]"


def sources_table(results: Sequence[SetResult]) -> Tabular:
    """Accuracy by subject or family, of the sets that have several."""
    rows = [
        [result.name, source, str(share.num_problems), interval(share)]
        for result in results
        if len(result.by_source) > 1
        for source, share in result.by_source.items()
    ]
    return Tabular(headings=["set", "source", "problems", "accuracy"], rows=rows)


def terminal_table(results: Sequence[SetResult]) -> Table:
    """The figures as the terminal shows them: everything of a few sets, a line for each of many."""
    tabular = figures_table(results)
    if len(results) <= MOST_SIDE_BY_SIDE:
        headings, *rows = zip(tabular.headings, *tabular.rows, strict=True)
    else:
        shown = [place for place, heading in enumerate(tabular.headings) if heading in OF_MANY]
        headings, *rows = ([row[place] for place in shown] for row in (tabular.headings, *tabular.rows))
    is_whole = len(results) <= MOST_SIDE_BY_SIDE
    caption = None if is_whole else Text("every figure is in evaluation.md", style="dim")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, caption=caption, caption_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
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
        if (sources := sources_table(last)).rows:
            parts += ["## Accuracy by source", _markdown(sources)]
        write_atomically(run_dir / "evaluation.md", ("\n\n".join(parts) + "\n").encode())
    return last_results(results)


def _markdown(tabular: Tabular) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join(["---", *("---:" for _ in tabular.headings[1:])]) + "|"
    return "\n".join([line(tabular.headings), rule, *map(line, tabular.rows)])


def _of_fewer(result: SetResult, figure: str) -> str:
    """A share; with the number of its problems where failures left fewer than the accuracy has."""
    share = result.shares.get(figure)
    if share is None or share.num_problems == result.accuracy.num_problems:
        return interval(share)
    return f"{interval(share)} of {share.num_problems}"


def _rate(result: SetResult, name: str, form: str = "") -> str:
    if name not in result.rates:
        return NONE
    value = result.rates[name]
    return form.format(value) if form else f"{value:.1%}"
