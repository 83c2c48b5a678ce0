r"""Names in front of answers: "x = 5" is 5, "x = 1, y = 2" is compared name by name, "x + y = 5" is an equation.

A name is a single symbol (x, a_1, \theta), a function of one (f(x), P(A)), a segment or angle (AB, \angle ABC), a point
of symbols ((x,y)) or words (Total cost). Everything else on the left makes an equation, which is no answer by itself.
"""

import re

from turnwise.reward.units import is_operation

_SEPARATOR = r"(?<!\d),|,(?!\d{3}(?!\d))|;|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
_EQUALS = r"(?<![<>!:\\=])=(?!=)|\\equiv(?![A-Za-z])"
_BRACKETS = r"(?P<open>[(\[{])|(?P<close>[)\]}])|"
_FUNCTIONS = "sinh?|cosh?|tanh?|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|sqrt|frac|pi|infty|lim"
_SYMBOL = rf"(?:[A-Za-z]|\\(?!(?:{_FUNCTIONS})(?![A-Za-z]))[A-Za-z]+)(?:_(?:\w|\{{\w{{1,20}}\}}))?'{{0,3}}"
_NAME = re.compile(
    rf"{_SYMBOL}(?:\^(?:\{{-1\}}|-1))?(?:\((?:-?\d{{1,9}}|{_SYMBOL})(?:, ?(?:-?\d{{1,9}}|{_SYMBOL})){{0,5}}\))?"
    r"|[PE]\([^()]{1,30}\)"
    rf"|\({_SYMBOL}(?:, ?{_SYMBOL}){{1,5}}\)"
    r"|\|?[A-Z]{2,4}\|?"
    r"|m? ?\\(?:angle|triangle|overline|widehat|vec|hat|bar) ?(?:[A-Za-z]{1,4}|\{[A-Za-z]{1,4}\})"
)
_WORDS = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+){0,9}")
_SHORT_WORDS = frozenset(["ans", "sum", "min", "max", "gcd", "lcm", "det", "avg", "age"])
_NO_LABELS = re.compile(rf"{_FUNCTIONS}|and|or|mod", re.IGNORECASE)


def split_items(text: str) -> list[str]:
    """The answers of a list without brackets, in their order; the text itself where it is no list."""
    return [item for item in (item.strip() for item in _split(text, _SEPARATOR)) if item] or [text]


def is_equation(text: str) -> bool:
    """Whether an equals sign stands outside all brackets."""
    return len(_split(text, _EQUALS)) > 1


def is_name(text: str) -> bool:
    """Whether the left side of an equals sign is a single name."""
    if len(text) > 100:
        return False
    return _NAME.fullmatch(text) is not None or _is_label(text)


def without_names(answer: str, gold: str) -> tuple[str, str]:
    """Both without their names, all of a list or none: where one has them, or both have the same.

    Values of several names become tuples in the order of their names, for that order says which is which.
    """
    answers, golds = _assignments(answer), _assignments(gold)
    if answers and golds:
        names, gold_names = ([name for name, _ in pairs] for pairs in (answers, golds))
        if len(set(names)) == 1 and set(names) == set(gold_names):
            return _values(answers), _values(golds)
        if len(set(names)) == len(names) and len(names) == len(gold_names) and set(names) == set(gold_names):
            return f"({_values(sorted(answers))})", f"({_values(sorted(golds))})"
    elif answers and not is_equation(gold):
        answer, gold = _values_beside(answers, gold)
    elif golds and not is_equation(answer):
        gold, answer = _values_beside(golds, answer)
    return answer, gold


def without_name(text: str) -> str:
    """A single answer without its name, for a comparison with nothing."""
    return without_names(text, "")[0]


def _split(text: str, separator: str) -> list[str]:
    """The parts of the text between the separators that stand outside all brackets."""
    parts: list[str] = []
    depth = start = 0
    for found in re.finditer(_BRACKETS + separator, text):
        if found["open"] or found["close"]:
            depth += 1 if found["open"] else -1
        elif depth == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def _assignment(text: str) -> tuple[str, str] | None:
    sides = [side.strip() for side in _split(text, _EQUALS)]
    return (sides[0], sides[1]) if len(sides) == 2 and sides[1] and is_name(sides[0]) else None


def _assignments(text: str) -> list[tuple[str, str]] | None:
    """Name and value of each answer; the name of "x = 1, 2" belongs to both. None if an answer has no name."""
    if (whole := _assignment(text)) is not None and (_is_label(whole[0]) or len(split_items(text)) == 1):
        return [whole]
    items = split_items(text)
    pairs = [_assignment(item) for item in items]
    if pairs[0] is not None and not any(is_equation(item) for item in items[1:]):
        return [pairs[0], *((pairs[0][0], item) for item in items[1:])]
    named = [pair for pair in pairs if pair is not None]
    return named if len(named) == len(pairs) else None


def _values(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(value for _, value in pairs)


def _values_beside(pairs: list[tuple[str, str]], other: str) -> tuple[str, str]:
    """The values, and what they are compared with: in order where there are several names."""
    values = _values(pairs)
    if len({name for name, _ in pairs}) > 1:
        if len(split_items(other)) > 1:
            return f"({values})", f"({other})"
        if other.startswith("("):
            return f"({values})", other
    return values, other


def _is_label(text: str) -> bool:
    """Whether it is words that say what the answer is: "Total cost", but not "xy", "sin x" or "twice x"."""
    if _WORDS.fullmatch(text) is None:
        return False
    words = re.split("[ -]", text)
    if any(is_operation(word) or re.fullmatch(_FUNCTIONS, word, re.IGNORECASE) for word in words):
        return False
    if len(words) == 1:
        return len(text) > 3 or (len(text) == 3 and text[0].isupper()) or text.casefold() in _SHORT_WORDS
    return any(len(word) > 2 and _NO_LABELS.fullmatch(word) is None for word in words)
