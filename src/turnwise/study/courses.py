"""Figures of what happened in training: over the steps, by turn, and where the seconds went."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean, median, stdev

from turnwise.study.drawing.lines import MAX_NAMED, Lines
from turnwise.study.drawing.panel import NUMBER, SHARE, Form, Panel, Point, limits
from turnwise.study.drawing.render import Figure
from turnwise.study.drawing.rows import Bars, Rows
from turnwise.study.estimates import ALPHA, MIN_RUNS
from turnwise.study.runs import Run, Study

MAX_POINTS = 100
"""Of one line."""


def training(study: Study) -> Iterator[Figure]:
    """Training accuracy of each arm, the paper's figure 5."""
    by_setting = {setting: _over_steps(study, setting, "rollout/accuracy", SHARE) for setting in study.plan.settings}
    span = limits(point for lines in by_setting.values() for points in lines.values() for point in points)
    is_single = len(by_setting) == 1 and len(study.plan.arms) <= MAX_NAMED
    axis = {"x_label": "step", "y_label": "training accuracy", "form": SHARE, "limits": span}
    panels = [
        Lines(title=title, lines=shown, is_band=True, names_lines=is_single, height=2.9 if is_single else 2.4, **axis)
        for setting, lines in by_setting.items()
        for title, shown in _apart(study, lines, setting_name(study, setting))
    ]
    yield Figure(
        name="training_accuracy",
        title="Training accuracy",
        about=f"Share of a step's trajectories that end right: mean over seeds{interval_words(_points(panels))}. "
        + smoothing_window(study.plan.num_steps),
        panels=panels,
        num_columns=1 if is_single else 2,
        has_legend=not is_single,
    )


def _apart(
    study: Study, lines: Mapping[str, Sequence[Point]], title: str
) -> Iterator[tuple[str, Mapping[str, Sequence[Point]]]]:
    """All lines together, or of too many to tell apart, each beside the baseline."""
    if len(lines) <= MAX_NAMED:
        if lines:
            yield title, lines
        return
    baseline = study.plan.baseline
    for arm in lines:
        if arm != baseline:
            shown = {name: lines[name] for name in (baseline, arm) if name in lines}
            yield ", ".join(filter(None, [arm, title])), shown


def credit(study: Study) -> Iterator[Figure]:
    """Reward and advantage by turn in the first and in the last fifth of the steps."""
    steps = study.plan.num_steps
    span = max(1, steps // 5)
    parts = (
        (f"steps 0 to {span - 1}", range(span)),
        (f"steps {steps - span} to {steps - 1}", range(steps - span, steps)),
    )
    by_setting: dict[str, list[Panel]] = {}
    for setting in study.plan.settings:
        panels = by_setting.setdefault(setting, [])
        for area in ("reward", "advantage"):
            found = {title: lines for title, chosen in parts if (lines := _by_turn(study, setting, area, chosen))}
            span = limits((point for lines in found.values() for points in lines.values() for point in points), 0.0)
            for title, lines in found.items():
                axis = {"x_label": "turn", "y_label": f"mean {area}", "limits": span, "ticks": _turn_ticks(lines)}
                name = f"{area.capitalize()}, {title}"
                panels.append(Lines(title=name, lines=lines, has_zero=True, height=2.3, **axis))
    yield from _by_setting(
        study,
        by_setting,
        name="credit",
        title="Reward and advantage by turn",
        about="Mean over the trajectories that have the turn, over steps, then over seeds{interval}. "
        "Few trajectories reach the last turns: they are other trajectories, not later moments of the same.",
    )


def tools(study: Study) -> Iterator[Figure]:
    """Turns and tool calls over the steps."""
    names = {
        "rollout/num_turns": ("Turns", "turns a trajectory", NUMBER),
        "rollout/tool_use": ("Trajectories that call the tool", "share", SHARE),
        "tool/calls": ("Tool calls", "calls a trajectory", NUMBER),
        "tool/ok": ("Tool calls that run without error", "share", SHARE),
    }
    by_setting = {setting: list(_step_panels(study, setting, names)) for setting in study.plan.settings}
    yield from _by_setting(
        study,
        by_setting,
        name="tool_use",
        title="Turns and tool use",
        about=f"Mean over seeds{{interval}}. {smoothing_window(study.plan.num_steps)}",
    )


def signal(study: Study) -> Iterator[Figure]:
    """Groups from which an estimator that compares siblings learns nothing, and what shaping does to them."""
    shares = {
        ("Groups of one reward", "share of groups"): {
            "without shaping": "reward/zero_variance_groups_unshaped",
            "as trained": "reward/zero_variance_groups",
        },
        ("Groups with an advantage thanks to shaping", "share of groups"): {"": "shaping/informed_groups"},
        ("What shaping did to signs of advantages", "share of turns"): {
            "from zero": "shaping/turns_from_zero",
            "flipped": "shaping/sign_flips",
        },
    }
    names = {"advantage/zero_groups": ("Groups without any advantage", "share of groups", SHARE)}
    by_setting: dict[str, list[Panel]] = {}
    nothing: dict[str, list[str]] = {}
    for setting in study.plan.settings:
        panels = by_setting.setdefault(setting, [*_step_panels(study, setting, names)])
        for (title, unit), marks in shares.items():
            rows = {}
            for arm, runs in runs_by_arm(study, setting).items():
                found = {label: _means(runs, name) for label, name in marks.items()}
                if all(found.values()):
                    rows[arm] = {label: mean_point(means) for label, means in found.items()}
            span = limits((point for points in rows.values() for point in points.values()), 0.0, 0.01)
            if any(point.value for points in rows.values() for point in points.values()):
                panels.append(Rows(title=title, x_label=unit, rows=rows, limits=span))
            elif rows:
                nothing.setdefault(title, []).append(setting)
    notes = [f"{title}: none in any arm{_at(study, settings)}." for title, settings in nothing.items()]
    yield from _by_setting(
        study,
        by_setting,
        name="signal",
        title="Groups without signal",
        about="Trajectories that all have one reward teach nothing to an estimator that compares them as wholes. "
        "Mean over steps, then over seeds{interval}. " + " ".join([smoothing_window(study.plan.num_steps), *notes]),
    )


def time(study: Study) -> Iterator[Figure]:
    """Seconds of a step by what they were spent on, in the run of each arm that was disturbed least."""
    by_setting: dict[str, list[Panel]] = {}
    for setting in study.plan.settings:
        bars = {}
        for arm, runs in runs_by_arm(study, setting).items():
            seconds = (
                [median(run.series(f"time/{name}_s")[1] or [math.nan]) for name in ("step", "rollout", "tool")]
                for run in runs
            )
            whole, rollout, tool = min(seconds, key=lambda one: one[0])
            if not math.isnan(whole + rollout + tool):
                bars[arm] = {"sampling": rollout - tool, "tools": tool, "update and the rest": whole - rollout}
        by_setting[setting] = [Bars(x_label="seconds a step", bars=bars)] if bars else []
    yield from _by_setting(
        study,
        by_setting,
        name="time",
        title="Time of a step",
        about="Median over the steps of each arm's quickest run, without evaluations. Runs on one machine slow "
        "each other, so small differences mean nothing.",
        has_legend=False,
    )


def mean_point(values: Sequence[float], x: float = 0.0) -> Point:
    """The mean over seeds with its 95% interval by Student's t; of too few seeds, without one."""
    from scipy.stats import t

    if len(values) < MIN_RUNS:
        return Point(x=x, value=fmean(values))
    half = float(t.ppf(1 - ALPHA / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Point(x=x, value=fmean(values), low=fmean(values) - half, high=fmean(values) + half)


def interval_words(points: Iterable[Point], name: str = "95% interval") -> str:
    """What a caption adds to the figure that `points` show: that it has an interval, where it has none, and why."""
    have = {point.has_interval for point in points}
    if have == {True}:
        return f" with its {name}"
    seeds = f"{MIN_RUNS} seeds or more that differ"
    return f" with its {name} where there are {seeds}" if True in have else f" (no interval: that takes {seeds})"


def within(point: Point, low: float, high: float) -> Point:
    """Without the part of its interval where nothing can lie."""
    return replace(point, low=max(point.low, low), high=min(point.high, high)) if point.has_interval else point


def smoothing_window(num_steps: int) -> str:
    """The sentence that names the smoothing of lines over steps."""
    width = _width(num_steps)
    if width == 1:
        return "Lines are not smoothed."
    return f"Lines are moving means over {width} steps, at both ends over fewer."


def _width(num_steps: int) -> int:
    """An odd number of steps, a tenth of the run."""
    return num_steps // 10 | 1


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Means over the `width` values about each; at the ends, over those of them that there are."""
    reach = width // 2
    return [fmean(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))]


def _over_steps(study: Study, setting: str, name: str, form: Form) -> dict[str, list[Point]]:
    """A figure over the steps by arm: each run smoothed, then the mean over runs, every so many steps."""
    stride = math.ceil(study.plan.num_steps / MAX_POINTS)
    found = {}
    for arm, runs in runs_by_arm(study, setting).items():
        by_step: dict[int, list[float]] = {}
        for run in runs:
            steps, values = run.series(name)
            for step, value in zip(steps, smoothed(values, _width(study.plan.num_steps)), strict=True):
                by_step.setdefault(step, []).append(value)
        if by_step:
            points = [mean_point(by_step[step], float(step)) for step in sorted(by_step) if step % stride == 0]
            found[arm] = [within(point, 0.0, 1.0) for point in points] if form is SHARE else points
    return found


def _step_panels(study: Study, setting: str, names: Mapping[str, tuple[str, str, Form]]) -> Iterator[Lines]:
    for name, (title, y_label, form) in names.items():
        if lines := _over_steps(study, setting, name, form):
            yield Lines(title=title, x_label="step", y_label=y_label, lines=lines, form=form, is_band=True, height=2.2)


def _by_turn(study: Study, setting: str, area: str, steps: Iterable[int]) -> dict[str, list[Point]]:
    """Means by turn, over `steps` and then over the seeds whose runs reached the turn."""
    chosen = set(steps)
    found = {}
    for arm, runs in runs_by_arm(study, setting).items():
        points = []
        for turn in range(1, _num_turns(runs, area) + 1):
            means = []
            for run in runs:
                pairs = zip(*run.series(f"{area}/turn_{turn}"), strict=True)
                if values := [value for step, value in pairs if step in chosen]:
                    means.append(fmean(values))
            if means:
                points.append(mean_point(means, float(turn)))
        if points:
            found[arm] = points
    return found


def _num_turns(runs: Sequence[Run], area: str) -> int:
    prefix = f"{area}/turn_"
    numbers = (name.removeprefix(prefix) for run in runs for line in run.lines for name in line)
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _turn_ticks(lines: Mapping[str, Sequence[Point]]) -> dict[float, str]:
    return {x: f"{x:g}" for x in sorted({point.x for points in lines.values() for point in points})}


def _means(runs: Sequence[Run], name: str) -> list[float]:
    """Mean over the steps of each run that logged the figure."""
    return [fmean(values) for run in runs if (values := run.series(name)[1])]


def runs_by_arm(study: Study, setting: str) -> dict[str, list[Run]]:
    """The finished runs of a setting, for each arm that has any, in the plan's order."""
    return {arm: runs for arm in study.plan.arms if (runs := study.of(arm, setting))}


def setting_name(study: Study, setting: str) -> str:
    """Such as `task.horizon 4`; empty in a study of one setting."""
    return setting and f"{study.plan.across} {setting}"


def _at(study: Study, settings: Sequence[str]) -> str:
    return study.plan.across and f" at {study.plan.across} {', '.join(settings)}"


def _by_setting(
    study: Study, panels: Mapping[str, Sequence[Panel]], *, name: str, title: str, about: str, has_legend: bool = True
) -> Iterator[Figure]:
    """A figure for each setting. All have one caption, which a page shows once; `{interval}` is filled in."""
    about = about.format(interval=interval_words(_points(chain(*panels.values()))))
    for setting, own in panels.items():
        suffix = setting and f"_{study.plan.across.split('.')[-1]}{setting}"
        named = setting_name(study, setting)
        yield Figure(name=name + suffix, title=title, about=about, panels=own, has_legend=has_legend, setting=named)


def _points(panels: Iterable[Panel]) -> Iterator[Point]:
    """All that is drawn with an interval, or could be."""
    for panel in panels:
        if isinstance(panel, Lines):
            yield from chain(*panel.lines.values())
        elif isinstance(panel, Rows):
            yield from chain(*(points.values() for points in panel.rows.values()))
