r"""Answers as text: which spellings are the same answer, and which answers plain numbers decide, without algebra.

What counts as the same answer, here and in the algebra that follows where this module cannot tell:

- The last closed \boxed{...} is the answer. One that lists several candidates ("7 or 8") is wrong for a single one.
- Numbers are compared exactly. Only an answer of six decimals or more may be the rounding of the gold number.
- A percentage equals its fraction and its bare number (50%, 0.5 and 50), as the graders of Qwen2.5-Math have it.
- A unit, a currency sign or what is counted may be left out on either side. Two units that are both written and
  differ (cm and cm^2, dollars and cents) make an answer wrong; none is converted. Degrees are the bare number.
- The base of a number (52_8) may be left out by the answer, since the question names it; another base is wrong, and
  so is a base where the gold answer has none.
- "x = 5" equals 5, and "y = 2x + 3" equals 2x + 3; two different names in front are two different answers.
- Lists and sets have no order, tuples and intervals do; a column is no tuple. An inequality equals its interval.
- Beside the lead-in ("The answer is") and a unit, no prose may stand round a formula.
- Variables are compared with case, words without case and article. Yes and no may be followed by a reason, a choice
  letter by its text.
- An answer that leaves a sum, product, integral or limit to be worked out is wrong, unless the gold answer has one:
  it may be the question itself, which algebra would answer on the model's behalf.
- Numbers of more than some thousand digits, towers of powers and formulas nested more than forty deep are correct only
  word for word.
"""

import re
from dataclasses import dataclass

from turnwise.reward.plain_numbers import equal_numbers, read_number, without_unit

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
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
    }
)
_BARE_SPELLINGS = (
    (re.compile(r"√ ?(\d+|[a-z])"), r"\\sqrt{\1}"),
    (re.compile("√"), r"\\sqrt"),
    (re.compile(r"(?<!\\)\\[\[\]()]"), ""),
    (re.compile(r"\\(?:displaystyle|langle)(?![a-zA-Z])"), lambda found: "(" if found[0] == r"\langle" else ""),
    (re.compile(r"\\rangle(?![a-zA-Z])"), ")"),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"[€£¥]"), ""),
)
_LEAD = re.compile(
    r"(?:\s*(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my) )?(?:final )?answer\s*(?:is|:|=)\s*:?\s*)+", re.IGNORECASE
)
_SPELLINGS = (
    (re.compile(r"\\(?:left|right)(?![a-zA-Z])"), ""),
    (re.compile(r"(?<!\\)\\[!,]\s*|\\(?=[$%])|\$|\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})"), ""),
    (re.compile(r"(?<!\\)\\[;: ]|~"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\s+"), " "),
    (re.compile(r" ?([^\w\s,.]) ?"), r"\1"),  # not round commas: "7, 800" is a list, "7,800" a number
)
_CHOICE = re.compile(r"\(([A-Za-z])\)")
_CHOSEN = re.compile(r"(?:(?:option|choice) ?)?\(?([A-Ja-j])(?:[).:]+(.*))?", re.IGNORECASE)
_OTHER_CHOICE = re.compile(r"\b(?:and|or|not)\b|(?<![A-Za-z])[A-J](?![A-Za-z])")
_WORDS = re.compile(r"(?:no|[a-z]{3,})(?: [a-z]+)*", re.IGNORECASE)  # shorter ones are products: xy
_ARTICLE = re.compile(r"(?:an?|the) (?=[a-z]{2})", re.IGNORECASE)
_YES_OR_NO = {"yes": True, "true": True, "no": False, "false": False}
_FIRST_WORD = re.compile(r"([a-z]+)(?:[,.;:!](?: .*)?)?", re.IGNORECASE | re.DOTALL)
_SYNONYMS = (
    frozenset(
        {r"\emptyset", r"\varnothing", r"\{\}", "no solution", "no solutions", "empty set", "no real solutions", "none"}
    ),
    frozenset({"dne", "does not exist", "undefined"}),
)
_BASE = re.compile(r"([0-9A-Za-z]+)(?:_(?:(\d)|\{(\d+)\})|\(? ?base (\d+)\)?)")
_TIME = re.compile(r"(\d{1,2})(?::(\d\d))? ?(?:([ap])\.?m\.?)?", re.IGNORECASE)
_NAME = re.compile(r"(?:\\?[A-Za-z]+(?:_(?:\w|\{\w+\}))?|[A-Za-z]\([A-Za-z]\)|[A-Za-z][A-Za-z ]{1,40})=(?!=)")
_EQUALS = re.compile(r"(?<![<>!:\\])=")
_PROSE = re.compile(
    r"(?<![A-Za-z\\])(?!(?:sqrt|infinity|sinh|cosh|tanh|arcsin|arccos|arctan|frac|times)(?![A-Za-z])"
    r"|[a-z]*matrix\}|cases\}|array\}|aligned\})[A-Za-z]{4,}"
)
_SIDE_BY_SIDE = re.compile(r"(?<![\d_^.])[\d.]+\s+\d")
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
    if lead := _LEAD.match(text):
        text = text[lead.end() :]
    return last_box(text).strip().rstrip(".").strip()


def normal_form(text: str) -> str:
    """One spelling for answers that differ in spaces, dollar signs, degree signs and the wrapping of LaTeX text."""
    text = _TEXT.sub(r"\1", bare_answer(text))
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
    if not answer_form or answer_form == gold_form:
        return Comparison(answer_form == gold_form, answer, gold)
    answer_text, gold_text = _without_names(answer_form, gold_form)
    verdict = _by_words(answer_text, gold_text)
    if verdict is not None:
        return Comparison(verdict, answer, gold)
    answer_text, answer_unit = without_unit(answer_text)
    gold_text, gold_unit = without_unit(gold_text)
    answer_unit, gold_unit = answer_unit or _currency(answer), gold_unit or _currency(gold)
    if answer_unit and gold_unit and answer_unit != gold_unit:
        return Comparison(False, answer, gold)
    return Comparison(
        True if answer_text == gold_text else _by_numbers(answer_text, gold_text),
        bare_answer(answer) if answer_text == answer_form else answer_text,
        bare_answer(gold) if gold_text == gold_form else gold_text,
    )


def _currency(text: str) -> str:
    return "dollar" if r"\$" in text else ""


def needs_no_algebra(gold: str) -> bool:
    """Whether a gold answer is of a kind that text and plain numbers decide: a number with its unit, words, a time."""
    form = normal_form(gold)
    return bool(
        read_number(without_unit(_without_names("", form)[1])[0])
        or _WORDS.fullmatch(form)
        or _BASE.fullmatch(form)
        or _TIME.fullmatch(form)
        or any(form.casefold() in words for words in _SYNONYMS)
    )


def _by_words(answer: str, gold: str) -> bool | None:
    """The verdict on words, choice letters, times of day and numbers of another base; None for everything else."""
    small_answer, small_gold = _ARTICLE.sub("", answer.casefold(), count=1), _ARTICLE.sub("", gold.casefold(), count=1)
    if any(small_answer in words and small_gold in words for words in _SYNONYMS):
        return True
    if len(gold) == 1 and gold in "ABCDEFGHIJ" and (chosen := _CHOSEN.fullmatch(answer)):
        return chosen[1].upper() == gold and not _OTHER_CHOICE.search(chosen[2] or "")
    if small_gold in _YES_OR_NO:
        first = _FIRST_WORD.fullmatch(small_answer)
        said = {_YES_OR_NO[word] for word in re.findall("[a-z]+", small_answer) if word in _YES_OR_NO}
        return first is not None and said == {_YES_OR_NO[small_gold]} and first[1] in _YES_OR_NO
    if _WORDS.fullmatch(gold):
        return small_answer == small_gold
    if _WORDS.fullmatch(answer) and read_number(gold) is not None:
        return False
    times = [_TIME.fullmatch(text) for text in (answer, gold)]
    if any(time is not None and time[3] for time in times):
        return all(times) and _minutes(times[0]) == _minutes(times[1])
    bases = [_BASE.fullmatch(text) for text in (answer, gold)]
    if bases[1] is not None and gold[0].isdigit():
        if bases[0] is None:
            return answer == bases[1][1]
        return bases[0][1].casefold() == bases[1][1].casefold() and _last(bases[0]) == _last(bases[1])
    if bases[0] is not None and answer[0].isdigit() and read_number(gold) is not None:
        return False
    return None


def _last(found: re.Match[str]) -> str:
    return next(group for group in found.groups()[1:] if group is not None)


def _minutes(time: re.Match[str] | None) -> int | None:
    """Since midnight; a time without am or pm is one of 24 hours."""
    if time is None:
        return None
    hour = int(time[1])
    if time[3]:
        hour = hour % 12 + (12 if time[3].casefold() == "p" else 0)
    return 60 * hour + int(time[2] or 0)


def _without_names(answer: str, gold: str) -> tuple[str, str]:
    """Both without a name and equals sign in front, where only one of them has it or both have the same."""
    answer_name, gold_name = _NAME.match(answer), _NAME.match(gold)
    if answer_name and gold_name:
        same = answer_name[0] == gold_name[0]
        return (answer[answer_name.end() :], gold[gold_name.end() :]) if same else (answer, gold)
    if answer_name and not _EQUALS.search(gold) and not _EQUALS.search(answer, answer_name.end()):
        answer = answer[answer_name.end() :]
    if gold_name and not _EQUALS.search(answer) and not _EQUALS.search(gold, gold_name.end()):
        gold = gold[gold_name.end() :]
    return answer, gold


def _by_numbers(answer: str, gold: str) -> bool | None:
    answer_number, gold_number = read_number(answer), read_number(gold)
    if answer_number is not None and gold_number is not None:
        return equal_numbers(answer_number, gold_number)
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
