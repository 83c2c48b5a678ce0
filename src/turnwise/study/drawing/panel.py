"""What the figures of a study are made of: numbers with intervals, the look of each arm, and what a panel can do."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Form(NamedTuple):
    """How numbers of one kind are written: in a table, and along an axis in a unit `scale` times as fine."""

    cell: str
    axis: str
    scale: float = 1.0

    def text(self, value: float) -> str:
        """The number in a table."""
        return self.cell.format(value).replace("-", "−")

    def tick(self, value: float, place: object = None) -> str:
        """The number along an axis; `place` is what matplotlib gives besides."""
        number = round(self.scale * value, 9)
        return self.axis.format(number).replace("-", "−") if number else self.axis.format(0.0).lstrip("+")


SHARE = Form("{:.1%}", "{:.3g}%", 100.0)
POINTS = Form("{:+.1f}", "{:+g}")
NUMBER = Form("{:.2f}", "{:g}")
SECONDS = Form("{:.2f} s", "{:g}")


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """How an arm is drawn, in every figure alike."""

    color: str
    dash: Any
    marker: str
    place: int
    """Its place in the plan: the page shows and hides the arm by it."""
    hue: int
    """Number of its colour among those of the arms."""
    cycle: int
    """How often the colours had been used up before it."""

    @property
    def gid(self) -> str:
        """Names the arm's elements in an SVG."""
        return f"arm-{self.place}"


@dataclass(frozen=True, kw_only=True)
class Look:
    """Colours of a drawing: of text, lesser text, lines, ground, the parts of a bar, and of each arm."""

    ink: str
    muted: str
    rule: str
    ground: str
    parts: Sequence[str]
    strokes: Mapping[str, Stroke]
    has_room: bool
    """Whether intervals also stand in words beside what is drawn."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A number over seeds with its interval (not finite where there is none), and the seeds' own if shown."""

    x: float = 0.0
    value: float
    low: float = -math.inf
    high: float = math.inf
    seeds: Sequence[float] = ()

    @property
    def has_interval(self) -> bool:
        """Whether both of its ends are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def ends(self) -> tuple[float, float]:
        """The interval as it is drawn: its value alone where there is none."""
        return (self.low, self.high) if self.has_interval else (self.value, self.value)

    def text(self, form: Form) -> str:
        """Such as `52.0% (49.5% to 54.5%)`."""
        value = form.text(self.value)
        if not self.has_interval:
            return value
        return f"{value} ({form.text(self.low)} to {form.text(self.high)})"


def limits(points: Iterable[Point], *held: float) -> tuple[float, float] | None:
    """An axis for panels that are to be compared: it holds `held` and all intervals and seeds; None without points."""
    ends = [end for point in points for end in (*point.ends, *point.seeds)]
    if not ends:
        return None
    low, high = min(*ends, *held), max(*ends, *held)
    margin = 0.05 * (high - low) or 0.01
    return low - margin, high + margin


class Mark(NamedTuple):
    """A number in a drawing: its arm, what it stands above or beside, where it lies (data coordinates), its text."""

    arm: str
    column: str
    x: float
    y: float
    text: str


class Panel(Protocol):
    """One pair of axes."""

    @property
    def title(self) -> str:
        """Stands above it; empty where the figure's title is enough."""
        ...

    @property
    def height(self) -> float:
        """Inches."""
        ...

    @property
    def row_arms(self) -> Sequence[str]:
        """Arms that have a row each, from the top down, at 0, 1, 2 and on; empty where they share a plot."""
        ...

    @property
    def has_head(self) -> bool:
        """Whether a line of text stands between title and axes."""
        ...

    def draw(self, axes: "Axes", look: Look) -> None:
        """Draws everything but the title."""
        ...

    def marks(self) -> Iterator[Mark]:
        """Every number in it."""
        ...

    def table(self) -> list[list[str]]:
        """The same numbers, header first; the first column names the rows."""
        ...
