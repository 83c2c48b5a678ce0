"""Where a data set keeps question and answer, and how the answer is read: declared in YAML, without code."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from turnwise.task.rows import Row

_NUMBER = re.compile(r"([-+]?)(\d{1,3}(?:,\d{3})+|\d+)?(\.\d*)?")
_BRACKET = re.compile(r"(.*?)\s*\([^()]*\)\s*", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_YES_NO = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}


class AnswerRule(StrEnum):
    r"""How the gold answer is read from its column."""

    text = "text"
    """As it is."""
    code = "code"
    """As it is, with the white space around it."""
    number = "number"
    """A number: without thousands separators, leading zeros and a decimal part of zeros."""
    after_hashes = "after_hashes"
    """The number behind the last `####` of a solution."""
    last_box = "last_box"
    r"""What stands in the last `\boxed{}` of a solution."""
    before_bracket = "before_bracket"
    """Without the unit in brackets behind it: `9 (apples)`; of several, with `;` between them, each."""
    yes_no = "yes_no"
    """`yes` or `no` of a truth value."""
    joined = "joined"
    """The texts of a list, with commas between them."""
    letter = "letter"
    """One of the labels of the choices."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns; `a.b` is the field `b` of the column `a`. Empty: there is none."""

    question: list[str] = field(default_factory=lambda: ["question"])
    """The question; several are put together."""
    joiner: str = " "
    """What stands between them."""
    answer: str = "answer"
    """The gold answer, or the solution that holds it."""
    answer_rule: AnswerRule = AnswerRule.text
    """How it is read."""
    choices: str = ""
    """A list of answers to choose from, which are shown below the question by their labels."""
    labels: str = ""
    """A list of their labels."""
    source: str = ""
    """Subject or kind of a problem, by which accuracy is reported too."""
    tests: str = ""
    """A program that defines `check(candidate)`, which raises when the candidate is wrong."""
    entry_point: str = ""
    """Name of the function that is the candidate."""

    def __post_init__(self) -> None:
        if not self.question or not all(self.question):
            raise ValueError(f"columns.question={list(self.question)}: expected at least one name of a column")
        if not self.answer:
            raise ValueError("columns.answer='': expected the name of a column")
        for one, other in (("choices", "labels"), ("tests", "entry_point")):
            if bool(getattr(self, one)) != bool(getattr(self, other)):
                raise ValueError(f"columns.{one} and columns.{other}: expected both or neither")
        if self.answer_rule is AnswerRule.letter and not self.choices:
            raise ValueError("columns.answer_rule=letter: expected columns.choices and columns.labels too")

    @property
    def names(self) -> list[str]:
        """Every column that is read, without the fields inside."""
        named = (*self.question, self.answer, self.choices, self.labels, self.source, self.tests, self.entry_point)
        return list(dict.fromkeys(name.partition(".")[0] for name in named if name))

    def statement(self, row: Row) -> str:
        """The question of a row of the data set's own layout, with its choices.

        Raises:
            ValueError: A column is missing or blank.
        """
        text = self.joiner.join(text_of(row, name).strip() for name in self.question)
        if self.choices:
            labels, choices = list_of(row, self.labels), list_of(row, self.choices)
            if len(labels) != len(choices):
                fields = f"fields {self.labels!r} and {self.choices!r}"
                raise ValueError(f"{row.place}: {fields}: {len(labels)} labels of {len(choices)} choices")
            text = "\n".join(
                [text, "", *(f"({label}) {choice}" for label, choice in zip(labels, choices, strict=True))]
            )
        return text


def read_answer(value: Any, rule: AnswerRule) -> str:
    """A gold answer as the text that it is graded against.

    Raises:
        ValueError: It cannot be read; the message says why, without its place.
    """
    if value is None or (isinstance(value, str | list | tuple) and not value):
        raise ValueError("blank")
    answer = _READERS[rule](value)
    if not answer.strip():
        raise ValueError("blank")
    return answer if rule is AnswerRule.code else answer.strip()


def reread_answer(text: str, rule: AnswerRule) -> str:
    """An answer that was read before, such as that of a uniform file, brought into the same text.

    Raises:
        ValueError: It is none that the rule can give.
    """
    if rule in (AnswerRule.number, AnswerRule.after_hashes):
        return _number(text)
    if rule is AnswerRule.letter and not re.fullmatch(r"[A-Z]", text.strip()):
        raise ValueError("expected a capital letter")
    if rule is AnswerRule.yes_no:
        return _yes_no(text)
    return text if rule is AnswerRule.code else text.strip()


def value_of(row: Row, name: str) -> Any:
    """What a row holds in a column, or in a field inside it.

    Raises:
        ValueError: There is no such column or field; the message names the row.
    """
    value: Any = row.values
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ValueError(f"{row.place}: field {name!r} is missing; found {', '.join(row.values) or 'none'}")
        value = value[part]
    return value


def text_of(row: Row, name: str) -> str:
    """The text of a column.

    Raises:
        ValueError: It is missing, blank or no text; the message names the row.
    """
    value = value_of(row, name)
    if not isinstance(value, str) or not value.strip():
        shown = json.dumps(value, default=str)
        quoted = ": write it in quotes" if isinstance(value, int | float) else ""
        raise ValueError(f"{row.place}: field {name!r} is {shown}, expected a text that is not blank{quoted}")
    return value


def list_of(row: Row, name: str) -> list[str]:
    """The texts of a column that holds a list of them.

    Raises:
        ValueError: It is missing or no list of texts; the message names the row.
    """
    value = value_of(row, name)
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one.strip() for one in value):
        shown = json.dumps(value, default=str)
        raise ValueError(f"{row.place}: field {name!r} is {shown}, expected a list of texts")
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("expected a text or a number")
    return str(value)


def _number(value: Any) -> str:
    text = _text(value).strip()
    match = _NUMBER.fullmatch(text)
    if not match or not any(map(str.isdigit, text)):
        raise ValueError("expected a number")
    sign, whole, decimals = match[1].strip("+"), (match[2] or "0").replace(",", ""), match[3] or ""
    digits = whole.lstrip("0") or "0"
    decimals = decimals if decimals.strip(".0") else ""
    return ("" if digits == "0" and not decimals else sign) + digits + decimals


def _after_hashes(value: Any) -> str:
    _, mark, answer = _text(value).rpartition("####")
    if not mark:
        raise ValueError("holds no ####")
    return _number(answer)


def _last_box(value: Any) -> str:
    r"""The content of the last `\boxed{}` or `\fbox{}`, braces nested; of `\boxed 7` what stands before `$`."""
    text = _text(value)
    boxes = list(_BOX.finditer(text))
    if not boxes:
        raise ValueError(r"holds no \boxed{}")
    opening = boxes[-1].end()
    if text[opening : opening + 1] != "{":
        return text[opening:].partition("$")[0]
    depth = 0
    for match in _BRACE.finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[opening + 1 : match.start()]
    raise ValueError(r"its last \boxed{} is not closed")


def _before_bracket(value: Any) -> str:
    parts = [part.strip() for part in _text(value).split(";") if part.strip()]
    return ", ".join(match[1] if (match := _BRACKET.fullmatch(part)) and match[1] else part for part in parts)


def _yes_no(value: Any) -> str:
    word = str(value).strip().lower()
    if word not in _YES_NO:
        raise ValueError("expected true, false, yes or no")
    return _YES_NO[word]


def _joined(value: Any) -> str:
    texts: Iterable[Any] = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return ", ".join(_text(one).strip() for one in texts)


_READERS: dict[AnswerRule, Callable[[Any], str]] = {
    AnswerRule.text: _text,
    AnswerRule.code: _text,
    AnswerRule.number: _number,
    AnswerRule.after_hashes: _after_hashes,
    AnswerRule.last_box: _last_box,
    AnswerRule.before_bracket: _before_bracket,
    AnswerRule.yes_no: _yes_no,
    AnswerRule.joined: _joined,
    AnswerRule.letter: _text,
}
