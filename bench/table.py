"""A benchmark's figures against a size, and how numbers are written."""

from collections.abc import Sequence
from dataclasses import dataclass


def rounded(value: float) -> float:
    """To four digits, more than two runs agree in."""
    return float(f"{value:.4g}")


def plain(value: float) -> str:
    """Four digits of a number, without an exponent."""
    return f"{rounded(value):.12g}"


@dataclass(frozen=True)
class Table:
    """Figures against a size, whose values are the first column."""

    heads: Sequence[str]
    rows: Sequence[Sequence[float]]
    reading: str
    """The ratio to look at, in words."""

    def __post_init__(self) -> None:
        if wrong := [len(row) for row in self.rows if len(row) != len(self.heads)]:
            raise ValueError(f"rows of {wrong} figures under {len(self.heads)} heads")

    def markdown(self) -> str:
        """The table, and what to look at."""
        rows = [[f"{value:.12g}" for value in row] for row in self.rows]
        lines = [self.heads, ["---:"] * len(self.heads), *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{self.reading}\n"
