"""The figures of a comparison and of its runs as tables: for the terminal, Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from turnwise.study.estimates import Estimate
from turnwise.study.runs import Study
from turnwise.study.statistics import Comparison, Difference, Findings, Trend
from turnwise.study.verdicts import TITLES, points, probability, seeds_in_words

Rows = Sequence[Sequence[str]]
"""A table, its header first; the first column holds names, the others figures."""

COLUMNS = {
    "arm": "a preset of conf/ablation",
    "runs": "runs that count, of those planned: finished, and of several settings with a seed that has all of them",
    "mean": "mean over the runs, in percent",
    "IQM": "interquartile mean: that of the middle half, which one odd run hardly moves; with its 95% interval",
    "difference": "mean of arm minus baseline over the seeds that both have everywhere, points; with its 95% interval",
    "P(better)": "probability that a run of the arm ends above a run of the baseline, ties half; with its 95% interval",
    "p": "exact paired permutation test: were there no effect, how often a difference would be at least as large",
    "Holm p": "the same, corrected so that 19 of 20 studies without any effect have none below 0.05",
    "verdict": "above or below the baseline where interval and Holm p both say so; unclear does not mean equal",
    "seeds needed": "to show an unclear difference of this size, with this spread, in 80% of studies; a rough figure",
}
"""Headings and what they mean."""


_ON_TERMINAL = ("arm", "mean", "difference", "Holm p", "verdict", "seeds needed")
_IN_PAPER = ("arm", "runs", "IQM", "difference", "P(better)", "Holm p", "verdict")


def title(comparison: Comparison, across: str) -> str:
    """What is measured, and where: `across` is the study's axis, empty without one."""
    count = len(comparison.settings)
    where = (
        f", over {count} settings of {across}" if count > 1 else f", {across}={comparison.setting}" if across else ""
    )
    return TITLES[comparison.metric] + where


def comparison_rows(comparison: Comparison) -> Rows:
    """An arm a row, in the plan's order, for people to read; the columns are those of `COLUMNS`."""
    differences = {one.arm: one for one in comparison.differences}
    rows = [list(COLUMNS)]
    for figures in comparison.arms:
        iqm = _with_interval(figures.iqm, _percent)
        own = [figures.arm, f"{len(figures.values)}/{figures.num_planned}", _percent(figures.mean), iqm]
        difference = differences.get(figures.arm)
        if difference is None:
            rows.append([*own, "baseline" if figures.arm == comparison.baseline else "no pair", *[""] * 5])
        else:
            rows.append([*own, *_against_baseline(difference)])
    return rows


def comparison_table(comparison: Comparison, across: str = "") -> Table:
    """The most telling columns, for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, title_justify="left")
    table.title = Text(title(comparison, across))
    header, *rows = _chosen(comparison_rows(comparison), _ON_TERMINAL)
    for place, heading in enumerate(header):
        is_figure = 0 < place < len(header) - 1
        table.add_column(heading, justify="right" if place else "left", no_wrap=is_figure, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def trend_rows(trends: Sequence[Trend]) -> Rows:
    """How each arm's difference changes along the axis, an arm a row."""
    rows = [["arm", "seeds", "points per unit", "p", "Holm p"]]
    for trend in trends:
        slope = _with_interval(trend.slope, lambda value: points(value, digits=2))
        rows.append(
            [trend.arm, str(len(trend.seeds)), slope, probability(trend.p_value), probability(trend.p_holm)],
        )
    return rows


def result_rows(findings: Sequence[Findings]) -> Rows:
    """All comparisons, one row for each metric, setting and arm, figures as they are; for programs."""
    rows = [list(_RESULT_COLUMNS)]
    for found in findings:
        for comparison in (found.overall, *found.by_setting):
            setting = "all" if len(comparison.settings) > 1 else comparison.setting
            differences = {one.arm: one for one in comparison.differences}
            for figures in comparison.arms:
                values = [comparison.metric.value, setting, figures.arm, comparison.baseline, len(figures.values)]
                values += [figures.num_planned, figures.mean, *_ends(figures.iqm)]
                if (one := differences.get(figures.arm)) is not None:
                    values += [one.num_pairs, *_ends(one.mean), *_ends(one.improvement), one.p_value, one.p_holm]
                    values += [one.smallest_p, one.standing.value, one.seeds_needed, one.detectable]
                rows.append([*map(_cell, values), *[""] * (len(_RESULT_COLUMNS) - len(values))])
    return rows


_RESULT_COLUMNS = (
    *("metric", "setting", "arm", "baseline", "runs", "planned", "mean", "iqm", "iqm_low", "iqm_high", "pairs"),
    *("difference", "difference_low", "difference_high", "p_better", "p_better_low", "p_better_high"),
    *("p", "p_holm", "smallest_p_holm", "standing", "seeds_needed", "detectable"),
)


def run_rows(study: Study) -> Rows:
    """A finished run a row, what it measured, to the last digit, and what it was made from; for programs."""
    rows = [
        ["arm", "setting", "seed", "start", "final", "final_stderr", "area", "steps", "wall_s", "revision", "folder"]
    ]
    for run in study.runs:
        values = [run.arm, run.setting, run.seed, run.start, run.final, run.final_stderr, run.area]
        values += [run.summary.total_steps, round(run.summary.wall_s, 1), run.revision, run.folder.name]
        rows.append(["" if value is None else str(value) for value in values])
    return rows


def markdown(rows: Rows) -> str:
    """A table of Markdown; figures to the right."""
    header, *body = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def csv_text(rows: Rows) -> str:
    """Comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def latex(comparison: Comparison, across: str = "") -> str:
    """A table of LaTeX with the lines of booktabs."""
    header, *body = _chosen(comparison_rows(comparison), _IN_PAPER)
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in body]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escaped(title(comparison, across))}.}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(map(_escaped, header))} " + r"\\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _against_baseline(difference: Difference) -> list[str]:
    return [
        _with_interval(difference.mean, points),
        _with_interval(difference.improvement, lambda share: f"{share:.2f}"),
        probability(difference.p_value),
        probability(difference.p_holm),
        difference.standing.value,
        seeds_in_words(difference),
    ]


def _with_interval(estimate: Estimate, form: Callable[[float], str]) -> str:
    ends = f" [{form(estimate.low)}, {form(estimate.high)}]" if estimate.has_interval else ""
    return form(estimate.value) + ends


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _ends(estimate: Estimate) -> list[float | None]:
    ends = [estimate.low, estimate.high] if estimate.has_interval else [None, None]
    return [estimate.value, *ends]


def _cell(value: object) -> str:
    return "" if value is None else f"{round(value, 12) + 0.0:.6g}" if isinstance(value, float) else str(value)


def _chosen(rows: Rows, names: Sequence[str]) -> Rows:
    places = [rows[0].index(name) for name in names]
    return [[row[place] for place in places] for row in rows]


_LATEX = {character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
}


def _escaped(text: str) -> str:
    """Text for LaTeX; a hyphen before a figure is a minus sign."""
    return re.sub(r"(?<![^\s\[])-(?=\d)", "$-$", text.translate(str.maketrans(_LATEX)))
