"""The figures of a study: what its arms come to, and all of them as files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from turnwise.study import courses
from turnwise.study.contrasts import discount_pool_grids, discount_sweeps
from turnwise.study.drawing.lines import Lines
from turnwise.study.drawing.panel import POINTS, SHARE, Point, limits
from turnwise.study.drawing.render import Figure, printed, write_figure
from turnwise.study.drawing.rows import Map, Rows
from turnwise.study.runs import Study
from turnwise.study.statistics import ArmFigures, Comparison, Difference, Findings, Metric

ByMetric = Mapping[Metric, Findings]

_ACCURACY = {"y_label": "held-out accuracy", "form": SHARE}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Those that could be drawn, and the title of each other one with what it would need."""

    drawn: Sequence[Figure]
    left_out: Mapping[str, str]


def study_figures(study: Study, findings: ByMetric) -> Figures:
    """Every figure that the finished runs hold numbers for."""
    makers: Sequence[tuple[str, str, Iterator[Figure]]] = (
        ("Held-out accuracy", "a finished run", _accuracy(study, findings)),
        ("Training accuracy", "figures rollout/accuracy", courses.training(study)),
        ("Effect of each arm", "an arm that shares a seed with the baseline", _effects(study, findings)),
        ("Across settings", "a study that goes across settings", _across(study, findings)),
        (
            "Discount and pool",
            "arms that vary advantage.discount and advantage.pool and nothing else",
            _maps(study, findings),
        ),
        (
            "Reward and advantage by turn",
            "figures reward/turn_1, advantage/turn_1 and on",
            courses.credit(study),
        ),
        (
            "Turns and tool use",
            "figures rollout/num_turns, rollout/tool_use or tool/calls",
            courses.tools(study),
        ),
        (
            "Groups without signal",
            "figures advantage/zero_groups or reward/zero_variance_groups",
            courses.signal(study),
        ),
        ("Discount", "arms that differ from one another in advantage.discount alone", _discount(study, findings)),
        ("Time of a step", "figures time/step_s, time/rollout_s and time/tool_s", courses.time(study)),
    )
    found = [(title, needs, list(figures)) for title, needs, figures in makers]
    return Figures(
        drawn=[figure for *_, figures in found for figure in figures if figure.panels],
        left_out={title: needs for title, needs, figures in found if not any(figure.panels for figure in figures)},
    )


def write_figures(study: Study, figures: Sequence[Figure]) -> list[Path]:
    """Writes each figure as PNG and SVG into the study's folder `figures`."""
    look = printed(study.plan.arms, study.plan.baseline)
    return [path for figure in figures for path in write_figure(figure, look, study.root / "figures")]


def _accuracy(study: Study, findings: ByMetric) -> Iterator[Figure]:
    comparisons = _by_setting(findings[Metric.final])
    points = [_of_arm(one) for comparison in comparisons for one in comparison.arms]
    span = limits(points)
    yield Figure(
        name="final_accuracy",
        title="Held-out accuracy",
        about=f"After the last step. {_iqm(points)}; each small dot is one seed.",
        panels=[
            Rows(
                title=_title(study, comparison),
                x_label="held-out accuracy",
                rows={one.arm: {"accuracy": _of_arm(one)} for one in comparison.arms},
                limits=span,
                is_wide=True,
            )
            for comparison in comparisons
            if comparison.arms
        ],
        num_columns=1,
    )


def _effects(study: Study, findings: ByMetric) -> Iterator[Figure]:
    names = {
        Metric.final: "Held-out accuracy after the last step",
        Metric.area: "Training accuracy, mean over the steps",
    }
    panels = []
    points: list[Point] = []
    for metric, name in names.items():
        comparison = findings[metric].overall
        rows = {one.arm: {"difference": _of_difference(one)} for one in comparison.differences}
        points += [row["difference"] for row in rows.values()]
        if rows:
            label = "percentage points"
            panels.append(
                Rows(title=name, x_label=label, rows=rows, form=POINTS, zero=comparison.baseline, is_wide=True)
            )
    over = f" over all values of {study.plan.across}" if study.plan.across else ""
    yield Figure(
        name="effects",
        title=f"Effect of each arm against {study.plan.baseline}",
        about=f"Mean difference of runs with the same seed{over}{_bootstrap(points)}; each small dot is one seed.",
        panels=panels,
        num_columns=1,
    )


def _across(study: Study, findings: ByMetric) -> Iterator[Figure]:
    places = axis_places(study.plan.settings)
    finals: dict[str, list[Point]] = {}
    effects: dict[str, list[Point]] = {}
    for comparison in findings[Metric.final].by_setting:
        x = places[comparison.settings[0]]
        for arm in comparison.arms:
            finals.setdefault(arm.arm, []).append(replace(_of_arm(arm, x), seeds=()))
        for one in comparison.differences:
            effects.setdefault(one.arm, []).append(replace(_of_difference(one, x), seeds=()))
    axis = {"x_label": study.plan.across, "ticks": {x: setting for setting, x in places.items()}, "height": 3.0}
    effect = {"y_label": f"points above {study.plan.baseline}", "form": POINTS, "has_zero": True}
    panels = [
        Lines(title="Held-out accuracy", lines=finals, **_ACCURACY, **axis),
        Lines(title=f"Effect against {study.plan.baseline}", lines=effects, **effect, **axis),
    ]
    yield Figure(
        name="across",
        title=f"Across {study.plan.across}",
        about=f"Accuracy: {_iqm(chain(*finals.values())).lower()}. Effect: mean difference of runs with the same seed"
        f"{_bootstrap(chain(*effects.values()))}. Arms stand side by side at each place.",
        panels=[panel for panel in panels if panel.lines],
        has_legend=True,
    )


def _discount(study: Study, findings: ByMetric) -> Iterator[Figure]:
    sweeps = discount_sweeps(study)
    ticks = {discount: f"{discount:g}" for discount in sorted({gamma for sweep in sweeps for gamma in sweep.values()})}
    comparisons = _by_setting(findings[Metric.final])
    swept = {arm for sweep in sweeps for arm in sweep}
    span = limits(_of_arm(one) for comparison in comparisons for one in comparison.arms if one.arm in swept)
    panels: list[Lines] = []
    for comparison in comparisons:
        arms = {one.arm: one for one in comparison.arms}
        joined = [found for sweep in sweeps if len(found := [arm for arm in sweep if arm in arms]) > 1]
        lines = {arm: [_of_arm(arms[arm], sweep[arm])] for sweep in sweeps for arm in sweep if arm in arms}
        if joined:
            axis = {"x_label": "discount (gamma)", "ticks": ticks, "joined": joined, "limits": span}
            panels.append(Lines(title=_title(study, comparison), lines=lines, **_ACCURACY, **axis))
    points = [point for panel in panels for own in panel.lines.values() for point in own]
    yield Figure(
        name="discount",
        title="Discount",
        about=f"A thin line joins arms that differ in gamma alone. {_iqm(points)}; each small dot is one seed.",
        panels=panels,
        has_legend=True,
    )


def _maps(study: Study, findings: ByMetric) -> Iterator[Figure]:
    for number, grid in enumerate(discount_pool_grids(study), start=1):
        panels = []
        comparisons = _by_setting(findings[Metric.final])
        values = [one.iqm.value for each in comparisons for one in each.arms if one.arm in grid.values()]
        for comparison in comparisons:
            arms = {one.arm: one for one in comparison.arms}
            cells = {place: (arm, _of_arm(arms[arm])) for place, arm in grid.items() if arm in arms}
            axis = {"x_label": "discount (gamma)", "y_label": "pool", "bounds": (min(values), max(values))}
            if cells:
                panels.append(Map(title=_title(study, comparison), cells=cells, **axis))
        yield Figure(
            name="discount_and_pool" + (f"_{number}" if number > 1 else ""),
            title="Discount and pool",
            about="Held-out accuracy after the last step, interquartile mean over seeds. One scale of colours for all.",
            panels=panels,
        )


def _iqm(points: Iterable[Point]) -> str:
    return f"Interquartile mean over seeds{_bootstrap(points)}"


def _bootstrap(points: Iterable[Point]) -> str:
    return courses.interval_words(points, "95% bootstrap interval")


def axis_places(settings: Sequence[str]) -> dict[str, float]:
    """Where each setting lies on the axis: at its number, or evenly where one is none."""
    try:
        return {setting: float(setting) for setting in settings}
    except ValueError:
        return {setting: float(place) for place, setting in enumerate(settings)}


def _by_setting(findings: Findings) -> Sequence[Comparison]:
    return findings.by_setting or (findings.overall,)


def _title(study: Study, comparison: Comparison) -> str:
    return courses.setting_name(study, comparison.settings[0])


def _of_arm(arm: ArmFigures, x: float = 0.0) -> Point:
    return Point(x=x, value=arm.iqm.value, low=arm.iqm.low, high=arm.iqm.high, seeds=arm.values)


def _of_difference(one: Difference, x: float = 0.0) -> Point:
    value, low, high = (100 * bound for bound in (one.mean.value, one.mean.low, one.mean.high))
    return Point(x=x, value=value, low=low, high=high, seeds=[100 * value for value in one.values])
