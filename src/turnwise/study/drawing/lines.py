"""Values of arms along an axis."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from turnwise.study.drawing.panel import NUMBER, Form, Look, Mark, Point, Stroke

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NAMED = 7
"""Lines that are named at their ends; of more, the names would not fit."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Values of arms along an axis: a band about a line, or bars about points that a thin line joins."""

    title: str = ""
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[Point]]
    form: Form = NUMBER
    is_band: bool = False
    ticks: Mapping[float, str] | None = None
    """Names of the places along the axis; None: numbers as matplotlib sets them."""
    joined: Sequence[Sequence[str]] = ()
    """Sets of arms whose points a thin line joins."""
    has_zero: bool = False
    names_lines: bool = False
    """Whether each line has its arm's name at its end."""
    limits: tuple[float, float] | None = None
    """Of the numbers, where panels are to be compared; None: as far as they go."""
    height: float = 2.5

    @property
    def row_arms(self) -> Sequence[str]:
        """See `Panel`."""
        return ()

    @property
    def has_head(self) -> bool:
        """See `Panel`."""
        return False

    def draw(self, axes: "Axes", look: Look) -> None:
        """See `Panel`."""
        if self.has_zero:
            axes.axhline(0.0, color=look.muted, linewidth=0.8)
        for arms in self.joined:
            row = sorted((point.x + self._shift(arm), point.value, arm) for arm in arms for point in self.lines[arm])
            for (x, value, arm), (next_x, next_value, following) in pairwise(row):
                gid = f"arms-{look.strokes[arm].place}-{look.strokes[following].place}"
                axes.plot([x, next_x], [value, next_value], color=look.muted, linewidth=0.8, gid=gid)
        for arm, points in self.lines.items():
            draw = self._draw_band if self.is_band else self._draw_bars
            draw(axes, look.strokes[arm], points, self._shift(arm))
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.margins(x=0.02 if self.is_band else 0.06)
        axes.yaxis.set_major_formatter(self.form.tick)
        if self.limits is not None:
            axes.set_ylim(self.limits)
        if self.ticks is not None:
            axes.set_xticks(list(self.ticks), list(self.ticks.values()))
        if self.names_lines and len(self.lines) <= MAX_NAMED:
            self._name_lines(axes, look)

    def _draw_band(self, axes: "Axes", stroke: Stroke, points: Sequence[Point], shift: float) -> None:
        x = [point.x for point in points]
        low, high = zip(*(point.ends for point in points), strict=True)
        axes.fill_between(x, low, high, color=stroke.color, alpha=0.1, linewidth=0.0, gid=stroke.gid)
        axes.plot(x, [point.value for point in points], color=stroke.color, linestyle=stroke.dash, gid=stroke.gid)

    def _draw_bars(self, axes: "Axes", stroke: Stroke, points: Sequence[Point], shift: float) -> None:
        x = [point.x + shift for point in points]
        for place, point in zip(x, points, strict=True):
            dots = {"markersize": 3, "mew": 0, "alpha": 0.4, "gid": stroke.gid}
            axes.plot([place] * len(point.seeds), point.seeds, "o", color=stroke.color, **dots)
            axes.plot([place] * 2, point.ends, color=stroke.color, linewidth=1.1, gid=stroke.gid)
        style = {"marker": stroke.marker, "markersize": 4.5, "linewidth": 1.1, "linestyle": stroke.dash}
        axes.plot(x, [point.value for point in points], color=stroke.color, gid=stroke.gid, **style)

    def _shift(self, arm: str) -> float:
        """Sets the bars of arms that share a place side by side."""
        places = sorted({point.x for points in self.lines.values() for point in points})
        gap = min((b - a for a, b in pairwise(places)), default=1.0)
        beside = self.joined or [[name] for name in self.lines]
        (number,) = (number for number, arms in enumerate(beside) if arm in arms)
        return 0.0 if self.is_band else gap * 0.28 * ((number + 0.5) / len(beside) - 0.5)

    def _name_lines(self, axes: "Axes", look: Look) -> None:
        low, high = axes.get_ylim()
        gap = (high - low) * 0.15 / (self.height - 0.55)  # a line of text in an axes' height
        ends = sorted((points[-1].value, arm) for arm, points in self.lines.items())
        places = spread([value for value, _ in ends], gap)
        beside = axes.get_yaxis_transform()
        for (value, arm), place in zip(ends, places, strict=True):
            stroke = look.strokes[arm]
            line = {"color": stroke.color, "linewidth": 0.6, "gid": stroke.gid}
            axes.plot([0.985, 1.015], [value, place], transform=beside, clip_on=False, **line)
            where = {"xycoords": beside, "va": "center", "annotation_clip": False}
            axes.annotate(arm, (1.02, place), color=stroke.color, gid=stroke.gid, **where)
        axes.set_ylim(low, high)

    def marks(self) -> Iterator[Mark]:
        """See `Panel`."""
        for arm, points in self.lines.items():
            for point in points:
                yield Mark(arm, self._place(point.x), point.x + self._shift(arm), point.value, point.text(self.form))

    def table(self) -> list[list[str]]:
        """See `Panel`."""
        cells = {(arm, point.x): point.text(self.form) for arm, points in self.lines.items() for point in points}
        places = sorted({place for _, place in cells})
        rows = [[self._place(place), *(cells.get((arm, place), "") for arm in self.lines)] for place in places]
        return [[self.x_label, *self.lines], *rows]

    def _place(self, x: float) -> str:
        return f"{x:g}" if self.ticks is None else self.ticks[x]


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places near rising `values`, `gap` apart at least: neighbours too close move away from their common middle."""
    clusters: list[list[float]] = []
    for value in values:
        clusters.append([value])
        while len(clusters) > 1 and _middle(clusters[-1]) - _middle(clusters[-2]) < gap * _half(clusters):
            last = clusters.pop()
            clusters[-1] += last
    return [_middle(own) + gap * (place - (len(own) - 1) / 2) for own in clusters for place in range(len(own))]


def _middle(cluster: Sequence[float]) -> float:
    return sum(cluster) / len(cluster)


def _half(clusters: Sequence[Sequence[float]]) -> float:
    return (len(clusters[-1]) + len(clusters[-2])) / 2
