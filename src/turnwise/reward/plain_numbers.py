"""Plain numbers and their units as they are written in answers: read exactly, compared exactly."""

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
_MAX_CHARACTERS = 1000

MIN_DECIMALS = 6
_FLOAT_NOISE = Fraction(1, 10**12)

_UNIT = re.compile(
    r"(?<=[\d}%])(?P<words> ?[A-Za-z]+(?:[ -][A-Za-z]+){0,5})(?:\^(?:\{(?P<braced>[23])\}|(?P<power>[23])))?\Z"
)
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_PARTS = re.compile(r"hal(?:f|ves)|thirds?|quarters?|pi|and|or|i|e", re.IGNORECASE)
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_SPELLINGS_OF_UNITS = (
    "mm millimeter millimetre",
    "cm centimeter centimetre",
    "m meter metre",
    "km kilometer kilometre",
    "in inch inches",
    "ft foot feet",
    "yd yard",
    "mi mile",
    "mg milligram",
    "g gram",
    "kg kilogram",
    "lb lbs pound",
    "oz ounce",
    "s sec second",
    "min minute",
    "h hr hour",
    "day",
    "week",
    "month",
    "year yr",
    "ml milliliter millilitre",
    "l liter litre",
    "gal gallon",
    "cent",
    "dollar usd",
    "degree deg",
    "radian rad",
    "mph",
    "unit",
)
_UNITS = {
    name: spellings.split()[0]
    for spellings in _SPELLINGS_OF_UNITS
    for spelling in spellings.split()
    for name in (spelling, f"{spelling}s")
}


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A number as it was written: `value` before its percent sign counts, `decimals` the digits after its point."""

    value: Fraction
    decimals: int
    is_percent: bool


def read_number(text: str) -> PlainNumber | None:
    """The plain number that a normal form is (7, -0.5, 1,000, 1e3, 3/4, 1 1/2, 50%), None if it is anything else."""
    if len(text) > _MAX_CHARACTERS:
        return None
    if latex := _LATEX_FRACTION.fullmatch(text):
        sign, whole, top, short_top, spaced_top, bottom, short_bottom, percent = latex.groups(default="")
        text = f"{sign}{whole}{' ' if whole else ''}{top or short_top or spaced_top}/{bottom or short_bottom}{percent}"
    elif scientific := _SCIENTIFIC.fullmatch(text):
        text = f"{scientific[1]}e{scientific[2] or scientific[3]}"
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


def without_unit(text: str) -> tuple[str, str]:
    """A normal form without the unit behind its number, and that unit in one spelling; "" where there is none.

    What is counted ("5 apples") is dropped and is no unit. Words that are part of the number stay, or are worked out:
    "2 million" is 2000000, "2 thirds" stays.
    """
    found = _UNIT.search(text)
    if found is None:
        return text, ""
    before, words = text[: found.start()].strip(), found["words"].split()
    power = found["braced"] or found["power"] or ""
    if not found["words"].startswith(" ") and (len(words[0]) == 1 or words[0].casefold() not in _UNITS):
        return text, ""
    if words[0].casefold() in _SCALES:
        number = read_number(before)
        if number is None or number.is_percent:
            return text, ""
        value = number.value * _SCALES[words.pop(0).casefold()]
        before = str(value)
    if words and words[0].casefold() == "percent":
        return f"{before}%", ""
    known = [word.casefold() for word in words]
    if any(word in _SCALES or _PARTS.fullmatch(word) for word in known):
        return text, ""
    if known and known[0] in _POWERS and len(known) > 1:
        power = _POWERS[known.pop(0)]
    if len(known) == 1 and known[0] in _UNITS:
        return before, _UNITS[known[0]] + power
    is_counted = all(len(word) > 1 for word in known) and (not known or len(known[0]) > 2 or known[0] in _UNITS)
    return (before, "") if is_counted and not power else (text, "")
