"""Everything a study comes to, written beside its runs."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from turnwise.study.diagnostics import diagnostic_rows, late_steps, meanings
from turnwise.study.estimates import spread
from turnwise.study.figures import study_figures, write_figures
from turnwise.study.page import write_page
from turnwise.study.runs import Plan, Study
from turnwise.study.statistics import Comparison, Findings, Metric, compare
from turnwise.study.tables import (
    COLUMNS,
    comparison_rows,
    csv_text,
    latex,
    markdown,
    result_rows,
    run_rows,
    trend_rows,
)
from turnwise.study.verdicts import TITLES, counted, skipped_in_words, trend_verdict, verdicts
from turnwise.tracker.atomic import write_atomically
from turnwise.tracker.progress import duration


def write_results(study: Study, arms: Mapping[str, str]) -> list[Path]:
    """Writes tables, figures and the page of the study into its folder.

    Args:
        study: What to write of.
        arms: What each arm is, in a line; those that say nothing are not listed.

    Returns:
        Paths of the tables, of the folder of the figures, and of report.html.

    Raises:
        ValueError: No run is finished; the message says why.
    """
    findings = {metric: compare(study, metric) for metric in Metric}
    tables = write_tables(study, list(findings.values()), arms)
    figures = study_figures(study, findings)
    write_figures(study, figures.drawn)
    return [*tables, study.root / "figures", write_page(study, findings, figures, command(study.plan))]


def write_tables(study: Study, findings: Sequence[Findings], arms: Mapping[str, str]) -> list[Path]:
    """Writes results.md, results.csv, results.tex and runs.csv into the study's folder; returns their paths."""
    across = study.plan.across
    comparisons = [one for found in findings for one in (found.overall, *found.by_setting) if one.arms]
    texts = {
        "results.md": report(study, findings, arms),
        "results.csv": csv_text(result_rows(findings)),
        "results.tex": "% \\usepackage{booktabs}\n\n" + "\n".join(latex(one, across) for one in comparisons),
        "runs.csv": csv_text(run_rows(study)),
    }
    for name, text in texts.items():
        write_atomically(study.root / name, text.encode())
    return [study.root / name for name in texts]


def report(study: Study, findings: Iterable[Findings], arms: Mapping[str, str]) -> str:
    """The text of results.md: question, arms, verdicts, tables, how to read them, how it was made, what is missing."""
    plan = study.plan
    others = [arm for arm in plan.arms if arm != plan.baseline]
    question = f"Does {_listed(others, 'or')} do better or worse than {plan.baseline}?" if others else "How does it do?"
    parts = [f"# {', '.join(others) or plan.baseline} against {plan.baseline}\n", f"{question}\n"]
    parts += [_arms(plan, arms), *(_section(found, plan) for found in findings)]
    parts += [_HOW_TO_READ.format(columns="\n".join(f"- **{name}**: {text}." for name, text in COLUMNS.items()))]
    parts += [_noise(study), _in_training(study), _provenance(study), _missing(study)]
    return "\n".join(part for part in parts if part)


def command(plan: Plan) -> str:
    """What a reader types to run the same study."""
    seeds = ",".join(map(str, plan.seeds)) + ("," if len(plan.seeds) == 1 else "")  # a number alone is a count
    words = [
        "--arms",
        ",".join(plan.arms),
        "--seeds",
        seeds,
        "--steps",
        str(plan.num_steps),
        "--baseline",
        plan.baseline,
    ]
    words += ["--across", f"{plan.across}={','.join(plan.settings)}"] if plan.across else []
    return f"make ablations ARGS={shlex.quote(shlex.join([*words, *plan.overrides]))}"


def _arms(plan: Plan, arms: Mapping[str, str]) -> str:
    lines = [
        f"- **{arm}**{', the baseline' if arm == plan.baseline else ''}: {about}"
        for arm in plan.arms
        if (about := arms.get(arm))
    ]
    return "\n".join(["An arm is a preset of conf/ablation:\n", *lines, ""]) if lines else ""


def _section(findings: Findings, plan: Plan) -> str:
    """Verdicts and table of a metric: over everything, along the axis, and in each setting."""
    across = plan.across
    parts = [f"## {TITLES[findings.metric]}\n", _comparison(findings.overall)]
    if findings.trends:
        sentences = [f"- {trend_verdict(trend, across)}" for trend in findings.trends]
        parts += [f"### Along {across}\n", *sentences, "", markdown(trend_rows(findings.trends))]
    for one in findings.by_setting:
        parts += [f"### {across}={one.setting}\n", _comparison(one)]
    return "\n".join(parts)


def _comparison(comparison: Comparison) -> str:
    first, *others = verdicts(comparison)
    sentences = "\n".join(["", *(f"- {sentence}" for sentence in others), ""]) if others else ""
    table = f"\n{markdown(comparison_rows(comparison))}" if comparison.arms else ""
    return f"**{first}**\n{sentences}{table}"


_HOW_TO_READ = """\
## How to read it

{columns}

Arms are compared with the baseline alone, so two arms with the same verdict are not ordered. The verdict to go by is
that of the held-out accuracy; the training accuracy is a second look at the same runs, not a second study. Holm
corrects each table for its own comparisons, and the tables of single settings together. An interval is for one figure
by itself, uncorrected. A verdict that differs between two settings does not show that the effect does: the trend tests
that. docs/STATISTICS.md says how each figure is computed, why, and what it cannot say.
"""


def _noise(study: Study) -> str:
    """How exactly one run is measured, beside how much runs of an arm vary."""
    errors = [error for run in study.runs if (error := run.final_stderr) is not None]
    if not errors:
        return ""
    cells = {(run.arm, run.setting) for run in study.runs}
    finals = [np.array([run.final for run in study.of(*cell)]) for cell in cells]
    repeated = [values for values in finals if len(values) > 1]
    beside = f";\nruns of an arm have a standard deviation of {100 * spread(repeated):.1f}" if repeated else ""
    return (
        f"The choice of problems gives an accuracy a standard error of up to {100 * max(errors):.1f} points{beside}.\n"
        "All runs meet the same problems: what is common to them cancels in differences, and the intervals, which are\n"
        "over seeds, do not cover that choice.\n"
    )


def _in_training(study: Study) -> str:
    """The diagnostics of each setting."""
    plan = study.plan
    parts = [
        f"## In training, {late_steps(plan.num_steps)}\n",
        "Means over these steps, the last fifth, then over the runs.\n",
    ]
    tables = {setting: diagnostic_rows(study, setting) for setting in plan.settings}
    for setting, rows in tables.items():
        parts += [f"### {plan.across}={setting}\n", markdown(rows)] if setting else [markdown(rows)]
    parts += [f"- **{name}**: {text}." for name, text in meanings(tables.values()).items()]
    return "\n".join([*parts, ""])


def _provenance(study: Study) -> str:
    plan = study.plan
    lines = [
        "## How it was made\n",
        f"    {command(plan)}\n",
        f"- arms: {', '.join(plan.arms)}; baseline: {plan.baseline}",
        f"- seeds: {', '.join(map(str, plan.seeds))}; the same seed means the same problems in the same order from the "
        "same weights in every arm",
        f"- steps: {plan.num_steps}",
        *([f"- settings: {plan.across} = {', '.join(plan.settings)}"] if plan.across else []),
        *([f"- overrides: {shlex.join(plan.overrides)}"] if plan.overrides else []),
        f"- source: {_counted(run.revision for run in study.runs)}",
        f"- device: {_counted(_device(run.record) for run in study.runs)}",
        f"- versions: {_counted(_versions(run.record) for run in study.runs)}",
        f"- time: {duration(sum(run.summary.wall_s for run in study.runs))} (h:mm:ss or m:ss), that of all runs in sum",
        "",
        "Every run by itself is in runs.csv, every figure of this page in results.csv.",
        "",
    ]
    return "\n".join(lines)


def _missing(study: Study) -> str:
    across, parts = study.plan.across, list[str]()
    if study.skipped:
        count = f"{counted(len(study.skipped), 'run')} of {len(study.runs) + len(study.skipped)}"
        lines = [f"- {line}" for line in skipped_in_words(study.skipped, across)]
        parts += [f"{count}. Where an arm makes runs fail, those left flatter it.\n", *lines, ""]
    if study.damaged:
        lines = [f"- {line}" for line in skipped_in_words(study.damaged, across)]
        count = counted(len(study.damaged), "run")
        parts += [f"Trajectories of {count}, whose figures count all the same.\n", *lines, ""]
    return "\n".join(["## What is missing\n", *parts]) if parts else ""


def _counted(texts: Iterable[str]) -> str:
    """Each text once, with how many runs have it where they differ."""
    counts = Counter(texts)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({counted(number, 'run')})" for text, number in counts.most_common())


def _device(record: Mapping[str, Any]) -> str:
    device = record.get("device")
    return f"{device['type']} ({device['name']})" if device else "not recorded"


def _versions(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in (record.get("versions") or {}).items()) or "not recorded"


def _listed(words: Sequence[str], last: str) -> str:
    """`a, b or c`."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
