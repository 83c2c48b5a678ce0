"""Figures to files, for print, and into a page, in the page's own colours."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnwise.report.curves import inline_svg
from turnwise.study.drawing.panel import Look, Panel, Stroke

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Hues = tuple[str, ...]
LIGHT: Hues = ("#1f2328", "#1a6fd0", "#c04a00", "#12805c", "#86257f")
DARK: Hues = ("#e6e8ea", "#4f9ff0", "#f08a4b", "#35cfa0", "#e58fd0")
"""Few, so that they stay apart for the colour-blind, and each strong enough for text on its ground. The first is the
baseline's; the others are used again and again, each time with another dash, so that no two arms look alike."""
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (8, 2)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
PARTS_LIGHT: Hues = ("#5b7f9f", "#a9bfd2", "#d9c9a3")
PARTS_DARK: Hues = ("#7ea3c4", "#47617a", "#8d7d56")
PAPER = ("#1f2328", "#565d66", "#dfe1e4", "#ffffff")
"""Ink, lesser ink, rules and ground of what is printed."""

_PLACED = {"--ink": "#010f01", "--muted": "#010f02", "--rule": "#010f03", "--card": "#010f04"}
_PLACED |= {f"--arm-{number}": f"#010f1{number:x}" for number in range(len(LIGHT))}
_PLACED |= {f"--part-{number}": f"#010f3{number:x}" for number in range(len(PARTS_LIGHT))}
_VARIABLES = {color: variable for variable, color in _PLACED.items()}
"""What stands in the page for each colour that matplotlib is given there; none of them is ever seen."""

WIDTH = 7.2
"""Inches of a printed figure."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Panels that say one thing."""

    name: str
    """Of its files."""
    title: str
    about: str
    """How to read it, in a sentence or two."""
    panels: Sequence[Panel]
    num_columns: int = 2
    has_legend: bool = False
    """Whether the files name the arms above the panels; in the page, the boxes that choose arms do."""
    setting: str = ""
    """The setting it is of, where there is one figure for each."""


def strokes(arms: Sequence[str], baseline: str, hues: Hues) -> dict[str, Stroke]:
    """Colour, dash and marker of each arm."""
    found: dict[str, Stroke] = {}
    others = [arm for arm in arms if arm != baseline]
    for place, arm in enumerate(arms):
        number = others.index(arm) if arm in others else -1
        cycle, hue = divmod(number, len(hues) - 1) if number >= 0 else (0, -1)
        dash, marker = DASHES[cycle % len(DASHES)], MARKERS[(number + 1) % len(MARKERS)]
        found[arm] = Stroke(color=hues[hue + 1], dash=dash, marker=marker, place=place, hue=hue + 1, cycle=cycle)
    return found


def printed(arms: Sequence[str], baseline: str) -> Look:
    """Fixed colours on white."""
    ink, muted, rule, ground = PAPER
    own = strokes(arms, baseline, LIGHT)
    return Look(ink=ink, muted=muted, rule=rule, ground=ground, parts=PARTS_LIGHT, strokes=own, has_room=True)


def shown(arms: Sequence[str], baseline: str) -> Look:
    """Colours that `panel_svg` turns into variables of the page."""
    hues = tuple(_PLACED[f"--arm-{number}"] for number in range(len(LIGHT)))
    parts = tuple(_PLACED[f"--part-{number}"] for number in range(len(PARTS_LIGHT)))
    own = strokes(arms, baseline, hues)
    ink, muted, rule, ground = list(_PLACED.values())[:4]
    return Look(ink=ink, muted=muted, rule=rule, ground=ground, parts=parts, strokes=own, has_room=False)


def write_figure(figure: Figure, look: Look, folder: Path) -> list[Path]:
    """Writes `folder`/<name>.png (200 dots an inch) and .svg."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    folder.mkdir(parents=True, exist_ok=True)
    num_columns = min(figure.num_columns, len(figure.panels))
    num_rows = math.ceil(len(figure.panels) / num_columns)
    by_row = [figure.panels[row * num_columns :][:num_columns] for row in range(num_rows)]
    heights = [max(panel.height for panel in panels) for panels in by_row]
    paths = [folder / f"{figure.name}.png", folder / f"{figure.name}.svg"]
    with rc_context({**_style(look), "svg.hashsalt": figure.name}):
        arms = dict.fromkeys(mark.arm for panel in figure.panels for mark in panel.marks())
        across = int(WIDTH / (0.6 + 0.062 * max(map(len, arms))))  # that many names fit
        named = 0.1 + 0.2 * math.ceil(len(arms) / across) if figure.has_legend else 0.0
        canvas = Canvas(figsize=(WIDTH, sum(heights) + named), layout="constrained")
        grid = canvas.subplots(num_rows, num_columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes in grid.flat[len(figure.panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(grid.flat, figure.panels, strict=False):
            _draw(panel, axes, look)
            axes.set_title(panel.title, loc="left", fontsize=9, color=look.ink, pad=16 if panel.has_head else 6)
        if figure.has_legend:
            _name_arms(canvas, [look.strokes[arm] for arm in arms], list(arms), across)
        canvas.savefig(paths[0], dpi=200, metadata={"Software": None})
        canvas.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A panel in a page: its `svg`, whose elements name their arm, and `marks`, what its numbers say and where.

    A mark is `[arm's place in the plan, column, x, y, text]`, x and y in the units of the SVG's view box. Of a panel
    with a row an arm, `rows` is `[the arms' places from the top down, the top of the first row, a row's height]` in the
    same units, and the SVG names what a page moves when it closes up rows: the `axis` below them, its line (`foot`),
    and lines from there to the top (`span`).
    """

    svg: str
    marks: Sequence[tuple[int, str, float, float, str]]
    rows: tuple[Sequence[int], float, float] | None


def draw_panel(panel: Panel, look: Look, salt: str) -> Drawing:
    """Draws one panel for a page; `salt` keeps the names within its SVG apart from those of its neighbours."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context({**_style(look), "font.sans-serif": ["DejaVu Sans"], "svg.hashsalt": salt}):  # a wide one: any fits
        canvas = Canvas(figsize=(4.3, panel.height), layout="constrained")
        axes = canvas.subplots()
        _draw(panel, axes, look)
        if panel.row_arms:
            axes.xaxis.set_gid("axis")
            axes.spines["bottom"].set_gid("foot")
            for line in axes.lines:
                line.set_gid(line.get_gid() or "span")  # what is no arm's
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    height, unit = canvas.get_figheight() * 72, 72 / canvas.dpi
    marks = []
    for mark in panel.marks():
        x, y = axes.transData.transform((mark.x, mark.y)) * unit
        marks.append((look.strokes[mark.arm].place, mark.column, round(x, 1), round(height - y, 1), mark.text))
    rows = None
    if panel.row_arms:
        ends = (axes.transData.transform((0.0, y))[1] * unit for y in (-0.5, len(panel.row_arms) - 0.5))
        top, bottom = (float(height - end) for end in ends)
        places = [look.strokes[arm].place for arm in panel.row_arms]
        rows = (places, round(top, 2), round((bottom - top) / len(places), 3))
    named = re.sub(r'<g id="arm-(\d+)"', r'<g data-arm="\1"', buffer.getvalue())
    named = re.sub(r'<g id="arms-(\d+)-(\d+)"', r'<g data-arms="\1 \2"', named)
    named = re.sub(r'<g id="(axis|foot|span)"', r'<g data-part="\1"', named)
    return Drawing(svg=inline_svg(named, _VARIABLES), marks=marks, rows=rows)


def _draw(panel: Panel, axes: "Axes", look: Look) -> None:
    panel.draw(axes, look)
    axes.tick_params(length=0)


def _name_arms(canvas: Any, strokes: Sequence[Stroke], arms: Sequence[str], across: int) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for stroke, arm in zip(strokes, arms, strict=True):
        style = {"linestyle": stroke.dash, "marker": stroke.marker, "markersize": 4.5, "label": arm}
        handles.append(Line2D([], [], color=stroke.color, **style))
    num_columns = min(len(arms), across)
    by_row = [handle for start in range(num_columns) for handle in handles[start::num_columns]]  # it fills columns
    place = {"loc": "outside upper left", "ncols": num_columns, "frameon": False, "handlelength": 2.4}
    canvas.legend(handles=by_row, labelcolor="linecolor", **place)


def _style(look: Look) -> Mapping[Any, Any]:
    return {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["Liberation Sans", "Arial", "Helvetica", "DejaVu Sans"],
        "font.size": 8.5,
        "text.color": look.ink,
        "axes.edgecolor": look.rule,
        "axes.labelcolor": look.muted,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": look.rule,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "xtick.color": look.rule,
        "ytick.color": look.rule,
        "xtick.labelcolor": look.muted,
        "ytick.labelcolor": look.muted,
        "figure.facecolor": look.ground,
        "axes.facecolor": "none",
        "figure.constrained_layout.h_pad": 0.06,
        "figure.constrained_layout.w_pad": 0.06,
    }
