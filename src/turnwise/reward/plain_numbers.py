"""Plain numbers as they are written in answers: read exactly, compared exactly."""

import re
from dataclasses import dataclass
from fractions import Fraction

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = re.compile(
    rf"""(?P<sign>[+-]?)
         (?:(?P<whole>\d+)\ )?
         (?P<top>(?=\.?\d){_INTEGER}?(?:\.(?P<decimals>\d*))?(?:[eE](?P<exponent>[+-]?\d{{1,3}}))?)
         (?:/(?P<bottom>{_INTEGER}))?
         (?P<percent>%?)""",
    re.ASCII | re.VERBOSE,
)
_LATEX_FRACTION = re.compile(r"([+-]?)(\d*) ?\\frac(?:\{([+-]?\d+)\}|(\d)|(?: (\d)))(?:\{(\d+)\}| ?(\d))(%?)", re.ASCII)
_SCIENTIFIC = re.compile(
    r"([+-]?\d+(?:\.\d*)?) ?(?:\\times|\\cdot|\*|x) ?10(?:\^|\*\*)(?:\{([+-]?\d{1,3})\}|([+-]?\d{1,3}))"
)
_SPACED = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d*)?%?", re.ASCII)
_MAX_CHARACTERS = 1000

MIN_DECIMALS = 6
_FLOAT_NOISE = Fraction(1, 10**12)


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A number as it was written: `value` before its percent sign counts, `decimals` the digits after its point."""

    value: Fraction
    decimals: int
    is_percent: bool


def read_number(text: str) -> PlainNumber | None:
    """The plain number that a normal form is (7, -0.5, 1,000, 1 000, 1e3, 3/4, 1 1/2, 50%) or None."""
    if len(text) > _MAX_CHARACTERS:
        return None
    if latex := _LATEX_FRACTION.fullmatch(text):
        sign, whole, top, short_top, spaced_top, bottom, short_bottom, percent = latex.groups(default="")
        text = f"{sign}{whole}{' ' if whole else ''}{top or short_top or spaced_top}/{bottom or short_bottom}{percent}"
    elif scientific := _SCIENTIFIC.fullmatch(text):
        text = f"{scientific[1]}e{scientific[2] or scientific[3]}"
    elif _SPACED.fullmatch(text):
        text = text.replace(" ", "")
    number = _NUMBER.fullmatch(text)
    if number is None or (number["whole"] and not number["bottom"]):
        return None
    bottom = int(number["bottom"].replace(",", "")) if number["bottom"] else 1
    if bottom == 0:
        return None
    value = int(number["whole"] or 0) + Fraction(number["top"].replace(",", "")) / bottom
    decimals = len(number["decimals"] or "") - int(number["exponent"] or 0)
    return PlainNumber(
        value=-value if number["sign"] == "-" else value,
        decimals=0 if number["bottom"] else decimals,
        is_percent=bool(number["percent"]),
    )


def equal_numbers(answer: PlainNumber, gold: PlainNumber) -> bool:
    """Whether two plain numbers are the same answer.

    They are compared exactly, with one exception: an answer of at least six decimals equals the gold number that it is
    the rounding of, give or take the noise of floating point (0.3333333333333333 for 1/3). Where only one of the two
    is a percentage, 50% equals 0.5, and also 50: questions that ask for a percentage are answered either way.
    """
    candidates = [gold.value]
    if answer.is_percent != gold.is_percent:
        candidates.append(gold.value * 100 if answer.is_percent else gold.value / 100)
    return any(_is_rounding(answer, exact) for exact in candidates)


def _is_rounding(answer: PlainNumber, exact: Fraction) -> bool:
    error = abs(answer.value - exact)
    if answer.decimals < MIN_DECIMALS:
        return error == 0
    return error <= max(Fraction(1, 2 * 10**answer.decimals), abs(exact) * _FLOAT_NOISE)
