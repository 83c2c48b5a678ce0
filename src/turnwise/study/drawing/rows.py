"""Arms one below the other: intervals, bars, and a map."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnwise.study.drawing.panel import SECONDS, SHARE, Form, Look, Mark, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One row an arm: points with intervals across, and the seeds behind them as faint dots."""

    title: str = ""
    x_label: str
    rows: Mapping[str, Mapping[str, Point]]
    """Of each arm, a named point, or two, of which the first is hollow."""
    form: Form = SHARE
    zero: str = ""
    """What a line at 0 stands for; empty: no line."""
    limits: tuple[float, float] | None = None
    """Of the numbers, where panels are to be compared; None: as far as they go."""
    is_wide: bool = False
    """Whether there is room for the numbers beside the rows."""

    @property
    def height(self) -> float:
        """See `Panel`."""
        return 0.75 + 0.34 * len(self.rows)

    @property
    def row_arms(self) -> Sequence[str]:
        """See `Panel`."""
        return list(self.rows)

    @property
    def has_head(self) -> bool:
        """See `Panel`."""
        return bool(self.zero) or any(len(points) > 1 for points in self.rows.values())

    def draw(self, axes: "Axes", look: Look) -> None:
        """See `Panel`."""
        if self.zero:
            axes.axvline(0.0, color=look.ink, linewidth=0.9)
            where = {"xycoords": axes.get_xaxis_transform(), "ha": "center", "annotation_clip": False}
            axes.annotate(self.zero, (0.0, 1.02), color=look.ink, va="bottom", **where)
        for y, (arm, points) in enumerate(self.rows.items()):
            stroke, is_single = look.strokes[arm], len(points) == 1
            values = [point.value for point in points.values()]
            axes.plot(values, [y] * len(values), color=stroke.color, linewidth=0.8, gid=stroke.gid)
            for number, point in enumerate(points.values()):
                seeds_y = [y + 0.22] * len(point.seeds)
                axes.plot(point.seeds, seeds_y, "o", markersize=3, mew=0, color=stroke.color, alpha=0.4, gid=stroke.gid)
                axes.plot(point.ends, [y, y], color=stroke.color, linewidth=1.8, gid=stroke.gid)
                face = stroke.color if is_single or number else look.ground
                style = {"marker": stroke.marker, "markersize": 6, "mec": stroke.color, "mfc": face, "gid": stroke.gid}
                axes.plot([point.value], [y], color=stroke.color, **style)
            if self.is_wide:
                (point,) = points.values()
                where = {"xycoords": axes.get_yaxis_transform(), "va": "center", "annotation_clip": False}
                words = point.text(self.form) if look.has_room else self.form.text(point.value)
                axes.annotate(words, (1.02, y), color=look.ink, gid=stroke.gid, **where)
        names = list(next(iter(self.rows.values())))
        if len(names) > 1:
            for name, face in zip(names, (look.ground, look.muted), strict=True):
                axes.plot([], [], "o", markersize=5, mec=look.muted, mfc=face, label=name)
            _name_parts(axes, len(names))
        _name_rows(axes, list(self.rows), look)
        axes.xaxis.set_major_formatter(self.form.tick)
        axes.set_xlabel(self.x_label)
        if self.limits is not None:
            axes.set_xlim(self.limits)

    def marks(self) -> Iterator[Mark]:
        """See `Panel`."""
        for y, (arm, points) in enumerate(self.rows.items()):
            text = "; ".join(filter(None, (f"{name} {point.text(self.form)}" for name, point in points.items())))
            for point in points.values():
                yield Mark(arm, arm, point.value, y, text)

    def table(self) -> list[list[str]]:
        """See `Panel`."""
        names = list(next(iter(self.rows.values())))
        has_seeds = any(point.seeds for points in self.rows.values() for point in points.values())
        rows = []
        for arm, points in self.rows.items():
            seeds = [" ".join(map(self.form.text, point.seeds)) for point in points.values() if has_seeds]
            rows.append([arm, *(point.text(self.form) for point in points.values()), *seeds])
        return [["arm", *names, *(f"seeds: {name}" for name in names if has_seeds)], *rows]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One bar an arm, made of named parts."""

    title: str = ""
    x_label: str
    bars: Mapping[str, Mapping[str, float]]
    form: Form = SECONDS

    @property
    def height(self) -> float:
        """See `Panel`."""
        return 0.95 + 0.32 * len(self.bars)

    @property
    def row_arms(self) -> Sequence[str]:
        """See `Panel`."""
        return list(self.bars)

    @property
    def has_head(self) -> bool:
        """See `Panel`."""
        return True

    def draw(self, axes: "Axes", look: Look) -> None:
        """See `Panel`."""
        for y, (arm, parts) in enumerate(self.bars.items()):
            left, gid = 0.0, look.strokes[arm].gid
            for (name, value), color in zip(parts.items(), look.parts, strict=False):
                (bar,) = axes.barh([y], [value], left=left, height=0.62, color=color, label=name)
                bar.set_gid(gid)
                left += value
            beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
            axes.annotate(self.form.text(left), (left, y), color=look.ink, gid=gid, **beside)
        _name_parts(axes, len(next(iter(self.bars.values()))))
        _name_rows(axes, list(self.bars), look)
        axes.margins(x=0.12)
        axes.set_xlim(left=0.0)
        axes.set_xlabel(self.x_label)

    def marks(self) -> Iterator[Mark]:
        """See `Panel`."""
        for y, (arm, parts) in enumerate(self.bars.items()):
            left = 0.0
            for name, value in parts.items():
                yield Mark(arm, arm, left + value / 2, y, f"{name} {self.form.text(value)}")
                left += value

    def table(self) -> list[list[str]]:
        """See `Panel`."""
        rows = []
        for arm, parts in self.bars.items():
            rows.append([arm, *map(self.form.text, [*parts.values(), sum(parts.values())])])
        return [["arm", *next(iter(self.bars.values())), "in all"], *rows]


@dataclass(frozen=True, kw_only=True)
class Map:
    """One cell for each pair of two settings, coloured by its number."""

    title: str = ""
    x_label: str
    y_label: str
    cells: Mapping[tuple[str, str], tuple[str, Point]]
    """Of (column, row): the arm and its number."""
    bounds: tuple[float, float]
    """Numbers that get the first and the last colour: the same for maps that are compared."""
    form: Form = SHARE

    @property
    def height(self) -> float:
        """See `Panel`."""
        return 0.9 + 0.5 * len(self._rows)

    @property
    def row_arms(self) -> Sequence[str]:
        """See `Panel`."""
        return ()

    @property
    def has_head(self) -> bool:
        """See `Panel`."""
        return False

    @property
    def _columns(self) -> list[str]:
        return list(dict.fromkeys(column for column, _ in self.cells))

    @property
    def _rows(self) -> list[str]:
        return list(dict.fromkeys(row for _, row in self.cells))

    def draw(self, axes: "Axes", look: Look) -> None:
        """See `Panel`."""
        from matplotlib import colormaps
        from matplotlib.colors import to_hex
        from matplotlib.patches import Rectangle

        low, high = self.bounds
        for (column, row), (arm, point) in self.cells.items():
            x, y, gid = self._columns.index(column), self._rows.index(row), look.strokes[arm].gid
            depth = (point.value - low) / (high - low) if high > low else 0.5
            color = to_hex(colormaps["Blues"](0.08 + 0.8 * depth))
            axes.add_patch(Rectangle((x - 0.49, y - 0.47), 0.98, 0.94, color=color, linewidth=0.0, gid=gid))
            ink = "#111111" if depth < 0.55 else "#ffffff"
            axes.text(x, y, self.form.text(point.value), ha="center", va="center", color=ink, gid=gid)
        axes.set_xlim(-0.5, len(self._columns) - 0.5)
        axes.set_ylim(len(self._rows) - 0.5, -0.5)
        axes.set_xticks(range(len(self._columns)), self._columns)
        axes.set_yticks(range(len(self._rows)), self._rows)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)

    def marks(self) -> Iterator[Mark]:
        """See `Panel`."""
        for (column, row), (arm, point) in self.cells.items():
            x, y = self._columns.index(column), self._rows.index(row)
            yield Mark(arm, f"{column}, {row}", x, y, point.text(self.form))

    def table(self) -> list[list[str]]:
        """See `Panel`."""
        cells = {place: point.text(self.form) for place, (_, point) in self.cells.items()}
        rows = [[row, *(cells.get((column, row), "") for column in self._columns)] for row in self._rows]
        return [[f"{self.y_label} \\ {self.x_label}", *self._columns], *rows]


def _name_rows(axes: "Axes", arms: Sequence[str], look: Look) -> None:
    """Arms from the top down, each in its colour, without lines along them."""
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_yticks(range(len(arms)), arms)
    for label, arm in zip(axes.get_yticklabels(), arms, strict=True):
        label.set(color=look.strokes[arm].color, gid=look.strokes[arm].gid)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _name_parts(axes: "Axes", num_parts: int) -> None:
    """A line above the axes that says what the first so many labelled things stand for."""
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[:num_parts],
        names[:num_parts],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=num_parts,
        frameon=False,
        handlelength=0.8,
        handleheight=0.8,
        handletextpad=0.5,
        columnspacing=1.4,
        borderaxespad=0.2,
        borderpad=0.0,
    )
