"""Answers as text: which spellings are the same answer and which plain numbers are equal, without computer algebra."""

import re
from dataclasses import dataclass
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPELLINGS = (
    (re.compile(r"\\(?:left|right)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"(?<!\\)\\[!,]\s*|\\(?=[$%])|\$|\^\s*(?:\\circ|\{\s*\\circ\s*\})|°"), ""),
    (re.compile(r"(?<!\\)\\[;: ]|~"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile("[\N{MINUS SIGN}\N{EN DASH}]"), "-"),
    (re.compile(r"\s+"), " "),
    (re.compile(r" ?([^\w\s,.]) ?"), r"\1"),  # not round commas: "7, 800" is a list, "7,800" a number
)
_CHOICE = re.compile(r"\(([A-Za-z])\)")
_WORDS = re.compile(r"(?:no|[a-z]{3,})(?: [a-z]+)*", re.IGNORECASE)  # shorter ones are products: xy
_SIDE_BY_SIDE = re.compile(r"\d\s+\d")

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = re.compile(
    rf"""(?P<sign>[+-]?)
         (?:(?P<whole>\d+)\ )?
         (?P<top>(?=\.?\d){_INTEGER}?(?:\.(?P<decimals>\d*))?(?:[eE](?P<exponent>[+-]?\d{{1,3}}))?)
         (?:/(?P<bottom>{_INTEGER}))?
         (?P<percent>%?)""",
    re.ASCII | re.VERBOSE,
)
_LATEX_FRACTION = re.compile(r"([+-]?)(\d*)\\frac(?:\{([+-]?\d+)\}\{(\d+)\}|(\d)(\d))", re.ASCII)
_UNIT = re.compile(r"(?<=\d)(?: [A-Za-z]{2,})+\Z")
_SCALES = re.compile(r"dozen|hundred|thousand|[mbtr]+illion|percent|hal(?:f|ves)|thirds?|quarters?|pi", re.IGNORECASE)

_MIN_DECIMALS = 6
_FLOAT_NOISE = Fraction(1, 10**12)


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A number as it was written: `value` before its percent sign counts, `decimals` the digits after its point."""

    value: Fraction
    decimals: int
    is_percent: bool


def last_box(text: str) -> str:
    r"""What the last \boxed{...} of `text` holds, stripped; all of `text` if it holds none that is closed."""
    starts = [match.end() for match in _BOX.finditer(text)]
    if starts:
        depth = 1
        for end in range(starts[-1], len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[starts[-1] : end].strip()
    return text.strip()


def normal_form(text: str) -> str:
    """One spelling for answers that differ in spaces, dollar signs, degree signs and the wrapping of LaTeX text."""
    text = _TEXT.sub(r"\1", text)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = text.strip().rstrip(".").strip()
    choice = _CHOICE.fullmatch(text)
    return choice[1] if choice else text


def read_number(text: str) -> PlainNumber | None:
    """The plain number that a normal form is (7, -0.5, 1,000, 1e3, 3/4, 1 1/2, 50%), None if it is anything else."""
    if latex := _LATEX_FRACTION.fullmatch(text):
        sign, whole, top, bottom, short_top, short_bottom = latex.groups(default="")
        text = f"{sign}{whole}{' ' if whole else ''}{top or short_top}/{bottom or short_bottom}"
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
    if answer.decimals < _MIN_DECIMALS:
        return error == 0
    return error <= max(Fraction(1, 2 * 10**answer.decimals), abs(exact) * _FLOAT_NOISE)


def _without_unit(text: str) -> str:
    """Drops the words after a leading number, unless one of them is part of the number ("2 million")."""
    unit = _UNIT.search(text)
    if unit is None or any(_SCALES.fullmatch(word) for word in unit[0].split()):
        return text
    return text[: unit.start()]


def compare(answer: str, gold: str) -> bool | None:
    """Whether `answer` equals `gold`, as far as text and plain numbers tell; None where it takes algebra to know.

    Both are single answers of moderate length, taken out of their box. Words are compared without case and only with
    words. A number that is followed by a unit equals a bare gold number. Numbers side by side ("7 8") are no answer,
    though algebra would multiply or add them.
    """
    answer_form, gold_form = normal_form(answer), normal_form(gold)
    if not answer_form or answer_form == gold_form:
        return answer_form == gold_form
    if _WORDS.fullmatch(gold_form):
        return answer_form.casefold() == gold_form.casefold()
    gold_number = read_number(gold_form)
    answer_number = read_number(answer_form if gold_number is None else _without_unit(answer_form))
    if answer_number is not None and gold_number is not None:
        return equal_numbers(answer_number, gold_number)
    if _SIDE_BY_SIDE.search(answer_form) and not _SIDE_BY_SIDE.search(gold_form):
        return False
    return None
