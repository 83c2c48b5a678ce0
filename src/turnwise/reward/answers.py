r"""Answers as text: which spellings are the same answer, and which answers plain numbers decide, without algebra.

What counts as the same answer, here and in the algebra that follows where this module cannot tell:

- The last closed \boxed{...} is the answer. One that lists several candidates ("7 or 8") is wrong for a single one.
- Numbers are compared exactly. Only an answer of six decimals or more may be the rounding of the gold number.
- A percentage equals its fraction and its bare number (50%, 0.5 and 50), as the graders of Qwen2.5-Math have it.
- A unit, a currency or what is counted may be left out on either side. Two units that are both written and differ
  (cm and cm^2, m/s and km/h, dollars and cents, dollars and euros) make an answer wrong; none is converted. Degrees are
  the bare number, "4th" is 4. Words that change the number ("5 plus six", "7 eighths", "5 squared") are no unit.
- The base of a number (52_8) may be left out by the answer, since the question names it; another base is wrong, and
  so is a base where the gold answer has none.
- The modulus of a residue may be left out like a unit.
- "x = 5" equals 5, and "y = 2x + 3" equals 2x + 3; two different names in front are two different answers. Several
  names ("x = 1, y = 2") are compared name by name, and with bare values in their order. An equation without a single
  name on its left (x + y = 5, 3x = 5) equals equations alone.
- Lists and sets have no order, tuples and intervals do; a column is no tuple. A list has as many answers as the gold
  list. A bare list is no pair (3,4), which may be an interval; of three or more it is the tuple of that order. A tuple
  or interval is never a bare list, and [5] is not 5. An inequality equals its interval, a ratio 3:2 its fraction.
- Beside the lead-in ("The answer is") and a unit, no prose may stand round a formula.
- Variables are compared with case, words without case and article. Yes and no may be followed by a reason, a choice
  letter by its text.
- An answer that leaves a sum, product, integral or limit to be worked out is wrong, unless the gold answer has one:
  it may be the question itself, which algebra would answer on the model's behalf.
- Numbers of more than some thousand digits, towers of powers and formulas nested more than forty deep are correct only
  word for word.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass

from turnwise.reward.names import split_items, without_name, without_names
from turnwise.reward.plain_numbers import equal_numbers, read_number
from turnwise.reward.units import currency, without_unit
from turnwise.reward.words import by_words, is_of_words, words_key

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|texttt|underline|mbox|operatorname)\s*\{([^{}]*)\}"
)
_UNIT_TEXT = re.compile(r"(?<=\d)(?:\\[,!;: ]|[~\s]){0,3}(?=\\(?:text|textrm|mathrm|mbox|rm)\s*\{\s*[A-Za-z])")
_SIGNS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": r"\times ",
        "\N{MIDDLE DOT}": r"\cdot ",
        "\N{DOT OPERATOR}": r"\cdot ",
        "\N{DIVISION SIGN}": "/",
        "\N{GREEK SMALL LETTER PI}": r"\pi ",
        "\N{INFINITY}": r"\infty ",
        "\N{LESS-THAN OR EQUAL TO}": r"\le ",
        "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
        "\N{UNION}": r"\cup ",
        "\N{ELEMENT OF}": r"\in ",
        "\N{PLUS-MINUS SIGN}": r"\pm ",
        "\N{SUPERSCRIPT TWO}": "^2",
        "\N{SUPERSCRIPT THREE}": "^3",
        "\N{VULGAR FRACTION ONE HALF}": r"\frac{1}{2}",
        "\N{VULGAR FRACTION ONE QUARTER}": r"\frac{1}{4}",
        "\N{VULGAR FRACTION THREE QUARTERS}": r"\frac{3}{4}",
        "\N{EMPTY SET}": r"\emptyset ",
        "\N{DEGREE SIGN}": r"^\circ ",
        "\N{NO-BREAK SPACE}": " ",
        "\N{NARROW NO-BREAK SPACE}": " ",
        "\N{THIN SPACE}": " ",
        "\N{CENT SIGN}": " cents",
    }
)
_BARE_SPELLINGS = (
    (re.compile(r"√ ?(\d+|[a-z])"), r"\\sqrt{\1}"),
    (re.compile("√"), r"\\sqrt"),
    (re.compile(r"(?<!\\)\\[\[\]()]"), ""),
    (re.compile(r"\\(?:displaystyle|langle)(?![a-zA-Z])"), lambda found: "(" if found[0] == r"\langle" else ""),
    (re.compile(r"\\rangle(?![a-zA-Z])"), ")"),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"[€£¥₹]"), ""),
)
_LEAD = re.compile(
    r"(?:\s*(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my) )?(?:final )?answer\s*(?:is|:|=)\s*:?\s*)+", re.IGNORECASE
)
_LEAD_IN_TEXT = re.compile(r"\s*\$?\s*\\text(?:bf|rm|it)?\{([^{}]*)\}")
_MARKED = re.compile(r"\s*(?:\*\*([^*]+)\*\*|`([^`]+)`)")
_SPELLINGS = (
    (re.compile(r"\\(?:left|right)(?![a-zA-Z])"), ""),
    (re.compile(r"(?<!\\)\\[!,]\s*|\\(?=[$%])|\$|\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})"), ""),
    (re.compile(r"(?<!\\)\\[;: ]|~"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\s+"), " "),
    (re.compile(r" ?([^\w\s,.]) ?"), r"\1"),  # not round commas: "7, 800" is a list, "7,800" a number
)
_CHOICE = re.compile(r"\(([A-Za-z])\)")
_EQUALS = re.compile(r"(?<![<>!:\\])=")
_PROSE = re.compile(
    r"(?<![A-Za-z\\])(?!(?:sqrt|infinity|sinh|cosh|tanh|arcsin|arccos|arctan|frac|times)(?![A-Za-z])"
    r"|[a-z]*matrix\}|cases\}|array\}|aligned\})[A-Za-z]{4,}"
)
_SIDE_BY_SIDE = re.compile(r"(?<![\d_^.])[\d.]+\s+\d")
_SIGN_UPON_SIGN = re.compile(r"[+-]\s*[+-]")
_ONE_IN_BRACKETS = re.compile(r"\A\[[^\[\],;]*\]\Z")
_TO_BE_WORKED_OUT = re.compile(r"\\(?:sum|prod|i{1,3}nt|oint|lim|limsup|liminf|nabla|partial)(?![a-zA-Z])")

_MAX_DEPTH = 40
_COSTLY = re.compile(
    r"\d{400}"
    r"|(?:\^|\*\*)\s*[{(]*\s*-?\d{5}"
    r"|\d{4}[)}\s]*!|!\s*!|!\s*[)}]+\s*!"
    r"|\\d?t?binom[{\s]*\d{5}"
    r"|\d[)}\s]*(?:\^|\*\*)[{(\s]*(?:\d{2,}|[4-9])[)}\s]*(?:\^|\*\*|!)[{(\s]*\d"
    r"|\d[)}\s]*(?:\^|\*\*)[{(\s]*\d+[)}\s]*(?:\^|\*\*)[{(\s]*\d+[)}\s]*(?:\^|\*\*)[{(\s]*\d"
    r"|(?:\^[^\^]{0,3}){60}"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What text and plain numbers say: a verdict, or None and the two answers as algebra should compare them."""

    verdict: bool | None
    answer: str
    gold: str


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


def bare_answer(text: str) -> str:
    """The answer without box, phrases like "the answer is" and final period, its signs spelt in LaTeX."""
    text = last_box(text).translate(_SIGNS)
    for pattern, spelling in _BARE_SPELLINGS:
        text = pattern.sub(spelling, text)
    return last_box(_without_lead(text)).strip().rstrip(".").strip()


def _without_lead(text: str) -> str:
    """The text without "the answer is" in front and without the marks of bold text and code round its beginning."""
    while True:
        if marked := _MARKED.match(text):
            text = (marked[1] or marked[2]) + text[marked.end() :]
        elif (lead := _LEAD.match(text)) or ((lead := _LEAD_IN_TEXT.match(text)) and _LEAD.fullmatch(lead[1])):
            text = text[lead.end() :]
        else:
            return text


def normal_form(text: str) -> str:
    """One spelling for answers that differ in spaces, dollar signs, degree signs and the wrapping of LaTeX text."""
    text = _TEXT.sub(r"\1", _UNIT_TEXT.sub(" ", bare_answer(text)))
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = text.strip().rstrip(".").strip()
    choice = _CHOICE.fullmatch(text)
    return choice[1] if choice else text


def compare(answer: str, gold: str) -> Comparison:
    """Whether `answer` equals `gold`, as far as text and plain numbers tell.

    Both are single answers of moderate length. Numbers side by side ("7 8") are no answer, though algebra would
    multiply or add them.
    """
    answer_form, gold_form = normal_form(answer), normal_form(gold)
    if currency(answer) and currency(gold) and currency(answer) != currency(gold):
        return Comparison(False, answer, gold)
    if not answer_form or answer_form == gold_form:
        return Comparison(answer_form == gold_form, answer, gold)
    answer_text, gold_text = without_names(answer_form, gold_form)
    verdict = by_words(answer_text, gold_text)
    if verdict is not None:
        return Comparison(verdict, answer, gold)
    answer_text, answer_unit = without_unit(answer_text)
    gold_text, gold_unit = without_unit(gold_text)
    answer_unit, gold_unit = currency(answer) or answer_unit, currency(gold) or gold_unit
    if answer_unit and gold_unit and answer_unit != gold_unit:
        return Comparison(False, answer, gold)
    return Comparison(
        True if answer_text == gold_text else _by_numbers(answer_text, gold_text),
        bare_answer(answer) if answer_text == answer_form else answer_text,
        bare_answer(gold) if gold_text == gold_form else gold_text,
    )


def vote_key(answer: str) -> Hashable:
    """What an answer votes for: equal keys for answers that text, names, units and plain numbers show to be the same.

    Cheap, for no algebra is done. Unlike the grader it has no gold answer, so that a percentage is not its fraction,
    and a name or a unit that is written says nothing.
    """
    form = normal_form(answer)
    if (key := words_key(form)) is not None:
        return key
    text = without_name(form)
    keys = [_number_key(item) for item in split_items(text)]
    if None not in keys:
        return keys[0] if len(keys) == 1 else tuple(sorted(keys, key=str))
    return _number_key(text) or without_unit(text)[0].replace(", ", ",")


def _number_key(text: str) -> Hashable:
    number = read_number(without_unit(text)[0])
    return None if number is None else (number.value, number.is_percent)


def needs_no_algebra(gold: str) -> bool:
    """Whether a gold answer is of a kind that text and plain numbers decide: a number with its unit, words, a time."""
    form = normal_form(gold)
    return read_number(without_unit(without_name(form))[0]) is not None or is_of_words(form)


def _by_numbers(answer: str, gold: str) -> bool | None:
    answer_number, gold_number = read_number(answer), read_number(gold)
    if answer_number is not None and gold_number is not None:
        return equal_numbers(answer_number, gold_number)
    if gold_number is not None and len(split_items(answer)) > 1:
        return False
    for pattern in (_SIGN_UPON_SIGN, _ONE_IN_BRACKETS):
        if pattern.search(answer) and not pattern.search(gold):
            return False
    if _PROSE.search(answer) and not _PROSE.search(gold):
        return False
    if _SIDE_BY_SIDE.search(answer) and not _SIDE_BY_SIDE.search(gold):
        return False
    if _TO_BE_WORKED_OUT.search(answer) and not _TO_BE_WORKED_OUT.search(gold):
        return False
    sides = [number.value for side in _EQUALS.split(answer) if (number := read_number(side)) is not None]
    if len(set(sides)) > 1 or _is_costly(answer):
        return False
    return None


def _is_costly(text: str) -> bool:
    depth = deepest = 0
    for character in text:
        depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(character, 0)
        deepest = max(deepest, depth)
    return deepest > _MAX_DEPTH or _COSTLY.search(text) is not None
