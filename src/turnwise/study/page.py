"""The report of a study: one page that needs nothing but itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import quote

from turnwise.report.page import render_page
from turnwise.report.trajectories import read_trajectories
from turnwise.study.contrasts import differing_options
from turnwise.study.diagnostics import diagnostic_rows, late_steps, meanings
from turnwise.study.drawing.render import DARK, LIGHT, PARTS_DARK, PARTS_LIGHT, Drawing, draw_panel, shown
from turnwise.study.figures import Figures
from turnwise.study.runs import Run, Study
from turnwise.study.statistics import Comparison, Findings, Metric
from turnwise.study.tables import COLUMNS, comparison_rows
from turnwise.study.verdicts import TITLES, skipped_in_words, trend_verdict, verdicts
from turnwise.tracker.atomic import write_atomically

HERE = Path(__file__).parent
MAX_BYTES = 4_000_000
"""Of embedded trajectories."""
TELLING = ("arm", "difference", "verdict")
"""Columns of a comparison that a narrow page shows first."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One panel in the page; `number` is its place among all of them, where its marks are found."""

    number: int
    title: str
    axis: str
    """What columns of marks are named by, such as step; empty: they name themselves."""
    arm: int | None
    """Place in the plan of the arm that its title names, with which it comes and goes; None: it is about several."""
    drawing: Drawing
    table: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class ShownFigure:
    """Figures of one name: `parts` pairs a setting with its plots, one part without a name where there are none."""

    title: str
    about: str
    parts: Sequence[tuple[str, Sequence[Plot]]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one comparison says: in words, the first of which are those on the whole, and as a table with raw runs."""

    heading: str
    lead: str
    sentences: Sequence[tuple[str, str]]
    """Each with the standing of its arm, empty where it is not about one."""
    table: Sequence[Sequence[str]]
    has_runs: bool
    """Whether the last column of the table holds every run; of several settings, the parts on each hold theirs."""


def write_page(study: Study, findings: Mapping[Metric, Findings], figures: Figures, command: str) -> Path:
    """Writes the study's report.html.

    Args:
        study: With one finished run at least.
        findings: By both metrics.
        figures: Of the same study.
        command: What a reader types to run it.

    Returns:
        The page's path.
    """
    plan = study.plan
    strokes = shown(plan.arms, plan.baseline).strokes
    shown_figures = _shown_figures(study, figures)
    plots = [plot for figure in shown_figures for _, plots in figure.parts for plot in plots]
    diagnostics = {setting: diagnostic_rows(study, setting) for setting in plan.settings}
    page = render_page(
        "study.html.j2",
        folder=HERE,
        scripts=["study.js"],
        study=study,
        plan=plan,
        arms=[(arm, stroke, arm == plan.baseline) for arm, stroke in strokes.items()],
        hues={"light": (LIGHT, PARTS_LIGHT), "dark": (DARK, PARTS_DARK)},
        sections={TITLES[metric]: _sections(study, one) for metric, one in findings.items()},
        columns=COLUMNS,
        telling=TELLING,
        figures=shown_figures,
        left_out=figures.left_out,
        marks=[plot.drawing.marks for plot in plots],
        late=late_steps(plan.num_steps),
        diagnostics=diagnostics,
        diagnostic_meanings=meanings(diagnostics.values()),
        differing=differing_options(study),
        missing=skipped_in_words(study.skipped, plan.across),
        damaged=skipped_in_words(study.damaged, plan.across),
        runs=[(run, _link(study, run)) for run in study.runs],
        wall_s=sum(run.summary.wall_s for run in study.runs),
        evaluation=study.runs[0].record["config"].get("evaluation"),
        command=command,
        trajectories=read_trajectories(_chosen_runs(study), MAX_BYTES),
    )
    path = study.root / "report.html"
    write_atomically(path, page)
    return path


def _sections(study: Study, findings: Findings) -> list[Section]:
    across = study.plan.across
    whole = _section(f"Over all settings of {across}" if findings.by_setting else "", findings.overall)
    sections = [whole]
    if findings.trends:
        sentences = [("", trend_verdict(trend, across)) for trend in findings.trends]
        sections.append(Section(heading=f"Along {across}", lead="", sentences=sentences, table=[], has_runs=False))
    return sections + [_section(f"{across} {one.settings[0]}", one) for one in findings.by_setting]


def _section(heading: str, comparison: Comparison) -> Section:
    lead, *sentences = verdicts(comparison)
    standings = [one.standing.value for one in comparison.differences]
    standings += [""] * (len(sentences) - len(standings))  # what comes after is on arms without a difference
    table = [list(row) for row in comparison_rows(comparison)] if comparison.arms else []
    has_runs = bool(table) and len(comparison.settings) == 1
    if has_runs:
        raw = [" ".join(f"{100 * value:.1f}" for value in one.values) for one in comparison.arms]
        table = [[*row, own] for row, own in zip(table, ["each run", *raw], strict=True)]
    sentences = list(zip(standings, sentences, strict=True))
    return Section(heading=heading, lead=lead, sentences=sentences, table=table, has_runs=has_runs)


def _shown_figures(study: Study, figures: Figures) -> list[ShownFigure]:
    """Figures drawn for the page, those of one title together."""
    look = shown(study.plan.arms, study.plan.baseline)
    numbers = count()
    by_title: dict[str, list[tuple[str, list[Plot]]]] = {}
    abouts: dict[str, str] = {}
    for figure in figures.drawn:
        plots = [
            Plot(
                number=(number := next(numbers)),
                title=panel.title,
                arm=look.strokes[named].place if (named := panel.title.partition(", ")[0]) in look.strokes else None,
                axis=getattr(panel, "x_label", "") if hasattr(panel, "lines") else "",
                drawing=draw_panel(panel, look, f"panel {number}"),
                table=panel.table(),
            )
            for panel in figure.panels
        ]
        by_title.setdefault(figure.title, []).append((figure.setting, plots))
        abouts[figure.title] = figure.about
    return [ShownFigure(title=title, about=abouts[title], parts=parts) for title, parts in by_title.items()]


def _chosen_runs(study: Study) -> dict[str, Path]:
    """One run of each arm in the last setting, all with the first seed that every arm has there."""
    plan = study.plan
    setting = next((one for one in reversed(plan.settings) if any(study.of(arm, one) for arm in plan.arms)), "")
    by_arm = {arm: {run.seed: run for run in runs} for arm in plan.arms if (runs := study.of(arm, setting))}
    shared = [seed for seed in plan.seeds if all(seed in runs for runs in by_arm.values())]
    chosen: dict[str, Run] = {arm: runs[shared[0] if shared else min(runs)] for arm, runs in by_arm.items()}
    where = f", {plan.across} {setting}" if setting else ""
    return {f"{arm}{where}, seed {run.seed}": run.folder for arm, run in chosen.items()}


def _link(study: Study, run: Run) -> str:
    """The run's own page, from that of the study; empty where it has none."""
    path = run.folder / "report.html"
    return quote(path.relative_to(study.root).as_posix()) if path.exists() else ""
