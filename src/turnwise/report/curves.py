"""The report's curves, drawn by matplotlib as SVG whose colours are the page's own, so that they follow its theme."""

import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnwise.tracker.evaluations import accuracies
from turnwise.types import StopReason, ToolStatus

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = Mapping[str, float | None]
"""One line of metrics.jsonl."""
Series = tuple[Sequence[float], Sequence[float]]
"""Places and values."""

_INK, _GRID = "#010f01", "#010f02"
_COLOURS = tuple(f"#010f{number:02x}" for number in range(0x11, 0x19))
_VARIABLES = {_INK: "--muted", _GRID: "--rule"} | {color: f"--c{i}" for i, color in enumerate(_COLOURS, start=1)}
"""What stands in the page for each colour that matplotlib is given; none of them is ever seen."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler('color', {list(_COLOURS)})",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One drawing: `svg` is markup; `legend` pairs a label with the CSS variable of its colour."""

    title: str
    about: str
    svg: str
    legend: Sequence[tuple[str, str]]


def training_curves(lines: Sequence[Line]) -> list[Curve]:
    """One curve for each kind of figure that the run logged."""
    share = {"low": 0.0, "high": 1.0, "is_share": True}
    drawn = [
        _accuracy_curve(lines),
        _lines(lines, "Reward", "Mean reward of a turn.", {"reward/turn_mean": "a turn"}),
        _lines(lines, "Turns", "Mean number of turns of a trajectory.", {"rollout/num_turns": "turns"}),
        _stack(lines, "Tool outcomes", "Share of the executed tool calls.", "tool", ToolStatus),
        _stack(lines, "Stop reasons", "Share of the trajectories.", "stop", StopReason),
        _signal_curve(lines),
        _by_turn(lines, "Return by turn, over the steps", "Mean of the trajectories that have the turn.", "return"),
        _by_turn(lines, "Advantage by turn, over the steps", "Mean of the trajectories that have it.", "advantage"),
        _lines(
            lines,
            "Changed by rescoring",
            "Share of the turns by what became of the sign of their stored advantage.",
            {"rescore/sign_flips": "flipped", "rescore/to_zero": "went to 0", "rescore/from_zero": "came from 0"},
            **share,
        ),
        _lines(lines, "Loss", "The objective that the optimiser lowers.", {"loss/value": "loss"}),
        _lines(
            lines,
            "Held-out loss",
            "Mean negative log-likelihood of a token, in nats, where turns are imitated.",
            {"eval/warmstart/nll": "held-out", "eval/warmstart/train_nll": "learnt"},
        ),
        _lines(lines, "KL from the reference", "Mean estimate of a token, in nats.", {"loss/kl": "KL"}),
        _lines(
            lines,
            "Clipped and corrected",
            "Share of the loss tokens.",
            {
                "loss/clip_fraction": "clipped",
                "loss/dual_clip_fraction": "clipped twice",
                "loss/correction_zeroed": "zeroed by the correction",
            },
            **share,
        ),
        _lines(lines, "Entropy", "Mean entropy of the sampled tokens, in nats.", {"loss/entropy": "entropy"}, low=0.0),
        _lines(lines, "Repetition", "Share of the sampled 4-grams.", {"rollout/repetition": "repeated"}, low=0.0),
        _lines(lines, "Gradient norm", "Before clipping.", {"loss/grad_norm": "norm"}, low=0.0),
        _lines(lines, "Mismatch", "KL divergence of trainer from engine.", {"mismatch/kl": "KL"}),
        _lines(
            lines,
            "Throughput",
            "Sampled tokens a second.",
            {"throughput/sampled_tokens_per_s": "tokens/s"},
            low=0.0,
        ),
        _lines(
            lines,
            "Seconds per step",
            "Wall clock. Tools run while the engine samples; a rollout that overlaps the update may outlast its step.",
            {
                "time/step_s": "whole step",
                "time/rollout_s": "rollout",
                "time/update_s": "update",
                "time/tool_s": "tools",
            },
            low=0.0,
        ),
        _lines(
            lines,
            "Idle",
            "Share of the wall clock in which neither the engine nor the update computed.",
            {"time/idle_share": "idle"},
            low=0.0,
        ),
        _lines(
            [line for line in lines if line.get("rollout/staleness")],
            "Staleness",
            "Updates between sampling and training weights, in the steps that were sampled ahead.",
            {"rollout/staleness": "updates"},
        ),
    ]
    return [curve for curve in drawn if curve is not None]


def turn_curve(title: str, about: str, series: Mapping[str, Series]) -> Curve:
    """Means by turn; `series` maps a label to turns (counted from 1) and values."""

    def draw(axes: "Axes") -> None:
        for turns, values in series.values():
            axes.plot(turns, values, marker="o", markersize=4)
        axes.set_xlabel("turn")
        axes.axhline(0.0, color=_INK, linewidth=0.8)

    return _curve(title, about, _in_turn(series), draw)


def _accuracy_curve(lines: Sequence[Line]) -> Curve | None:
    training = _series(lines, "rollout/accuracy")
    tasks = sorted({task for line in lines for task in accuracies(line)})
    if not training[0] and not tasks:
        return None

    def draw(axes: "Axes") -> None:
        _plot(axes, training)
        for task in tasks:
            steps, values = _series(lines, f"eval/{task}/accuracy")
            errors = dict(zip(*_series(lines, f"eval/{task}/accuracy_stderr"), strict=True))
            bars = [errors.get(step, 0.0) for step in steps]
            axes.errorbar(steps, values, yerr=bars, marker="o", markersize=4.5, linewidth=1.2, elinewidth=1.0)
        _as_share(axes)

    about = "Held-out accuracy is given with one standard error."
    return _curve("Accuracy", about, _in_turn(["training", *(f"held-out: {task}" for task in tasks)]), draw)


def _signal_curve(lines: Sequence[Line]) -> Curve | None:
    """The share without shaping gets a line of its own where it differs: an equal one would only hide the other."""
    shaped, unshaped = "reward/zero_variance_groups", "reward/zero_variance_groups_unshaped"
    labels = {"advantage/zero_groups": "no advantage", shaped: "one reward"}
    if any(line[shaped] != line[unshaped] for line in lines if shaped in line and unshaped in line):
        labels[unshaped] = "one reward, without shaping"
    about = "Share of the groups whose advantages are all zero; of those whose trajectories have one reward."
    return _lines(lines, "Groups without signal", about, labels, low=0.0, high=1.0, is_share=True)


def _lines(
    lines: Sequence[Line],
    title: str,
    about: str,
    labels: Mapping[str, str],
    low: float | None = None,
    high: float | None = None,
    is_share: bool = False,
) -> Curve | None:
    found = {label: series for name, label in labels.items() if (series := _series(lines, name))[0]}
    if not found:
        return None

    def draw(axes: "Axes") -> None:
        for series in found.values():
            _plot(axes, series)
        axes.set_ylim(bottom=low, top=high)
        if is_share:
            _as_share(axes)

    return _curve(title, about, _in_turn(found), draw)


def _by_turn(lines: Sequence[Line], title: str, about: str, area: str) -> Curve | None:
    """One line for each turn; of many turns, as many as there are colours."""
    prefix = f"{area}/turn_"
    turns = sorted(
        {int(number) for line in lines for name in line if (number := name.removeprefix(prefix)).isdecimal()}
    )
    return _lines(lines, title, about, {f"{prefix}{turn}": f"turn {turn}" for turn in turns[: len(_COLOURS)]})


def _stack(
    lines: Sequence[Line], title: str, about: str, area: str, names: type[ToolStatus] | type[StopReason]
) -> Curve | None:
    logged = [line for line in lines if any(f"{area}/{name}" in line for name in names)]
    shares = {name: [line.get(f"{area}/{name}") or 0.0 for line in logged] for name in names}
    colours = {name: color for name, color in zip(names, _COLOURS, strict=False) if any(shares[name])}
    if not colours:
        return None
    steps = [float(line["step"] or 0) for line in logged]
    if len(steps) == 1:  # as a bar: the area under a single point is nothing
        steps = [steps[0] - 0.5, steps[0] + 0.5]
        shares = {name: values * 2 for name, values in shares.items()}

    def draw(axes: "Axes") -> None:
        axes.stackplot(steps, [shares[name] for name in colours], colors=list(colours.values()), linewidth=0.0)
        _as_share(axes)

    return _curve(title, about, {name.replace("_", " "): color for name, color in colours.items()}, draw)


def _series(lines: Sequence[Line], name: str) -> Series:
    """Steps and values of one figure; a value that was not finite is NaN, which leaves a gap in the drawing."""
    found = [(line["step"] or 0, line[name]) for line in lines if name in line]
    return [step for step, _ in found], [math.nan if value is None else value for _, value in found]


def _plot(axes: "Axes", series: Series) -> None:
    """A line through what is finite, with a dot for each value that has no neighbour to be joined to."""
    is_there = [math.isfinite(value) for value in series[1]]
    alone = [i for i, there in enumerate(is_there) if there and sum(is_there[max(i - 1, 0) : i + 2]) == 1]
    axes.plot(*series, marker="o" if alone else None, markersize=4, markevery=alone)


def _as_share(axes: "Axes") -> None:
    axes.set_ylim(0.0, 1.0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _in_turn(labels: Iterable[str]) -> dict[str, str]:
    """The colours that matplotlib gives to what is drawn in this order."""
    return dict(zip(labels, itertools.cycle(_COLOURS), strict=False))


def _curve(title: str, about: str, legend: Mapping[str, str], draw: Callable[["Axes"], None]) -> Curve:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.6, 2.5))
        axes = figure.add_axes((0.12, 0.17, 0.87, 0.76))  # fixed: half the time of a layout engine, and all align
        axes.set_xlabel("step")
        axes.margins(x=0.02)
        draw(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        axes.tick_params(length=0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    variables = [(label, _VARIABLES[color]) for label, color in legend.items()]
    return Curve(title=title, about=about, svg=inline_svg(buffer.getvalue(), _VARIABLES), legend=variables)


def inline_svg(document: str, variables: Mapping[str, str]) -> str:
    """The `<svg>` element of a document, with the page's colours, fonts and width in place of fixed ones.

    Args:
        document: What matplotlib wrote as SVG, with text as text.
        variables: The CSS variable that stands for each colour of it.
    """
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[^"]*pt"|(?<=<g) id="[^"]*"| font-family: [^;"]*;', "", svg)
    return re.sub("#010f[0-9a-f]{2}", lambda match: f"var({variables[match[0]]})", svg)
