"""The two layouts of a row, the data set's own columns and that of a uniform file, read into the same thing."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from turnwise.task.columns import AnswerRule, Columns, list_of, read_answer, reread_answer, text_of, value_of
from turnwise.task.rows import Row

UNIFORM = ("id", "problem", "answer")
"""Fields that every row of a uniform file has; `meta` may hold what `columns.source` names."""
SOURCE = "source"
"""Says in a uniform file where the row comes from; tells the two layouts apart when both fit."""


class Item(NamedTuple):
    """What a row says. Where the answer cannot be read it is empty, and `error` says why and where."""

    statement: str
    answer: str
    source: str
    tests: str = ""
    entry_point: str = ""
    error: str = ""


def read_own(rows: Sequence[Row], columns: Columns, name: str) -> list[Item]:
    """Rows of the data set's own layout; `name` is the source of those that have none.

    Raises:
        ValueError: A row lacks a column or leaves one blank; names row and column.
    """
    items: list[Item] = []
    for row in rows:
        answer, error = _answer(row, columns.answer, columns.answer_rule, read_answer)
        if not error and columns.labels and answer not in (labels := list_of(row, columns.labels)):
            error = f"{row.place}: field {columns.answer!r} is {answer!r}: expected one of {', '.join(labels)}"
        source = text_of(row, columns.source).strip() if columns.source else name
        tests = _tests(row, columns.tests, columns.entry_point)
        items.append(Item(columns.statement(row), answer, source, *tests, error))
    return items


def read_uniform(rows: Sequence[Row], columns: Columns, name: str) -> list[Item]:
    """Rows of a uniform file; `name` is the source of those that have none.

    Raises:
        ValueError: A row lacks a field, leaves one blank, or has the id of an earlier one; names row and field.
    """
    places: dict[str, str] = {}
    items: list[Item] = []
    for row in rows:
        id_ = text_of(row, "id")
        if id_ in places:
            raise ValueError(f"{row.place}: id {id_!r} is already that of {places[id_]}")
        places[id_] = row.place
        text_of(row, "answer")
        answer, error = _answer(row, "answer", columns.answer_rule, reread_answer)
        meta = row.values.get("meta") or {}
        if not isinstance(meta, dict):
            raise ValueError(f"{row.place}: field 'meta' is {json.dumps(meta)}, expected an object")
        by_name = {key.lower(): value for key, value in meta.items()}
        source = str(by_name.get(columns.source.lower()) or name) if columns.source else name
        tests = _tests(row, "tests" if columns.tests else "", "entry_point")
        items.append(Item(text_of(row, "problem").strip(), answer, source, *tests, error))
    return items


def is_uniform(first: Row, columns: Columns) -> bool:
    """Whether a file is a uniform one, by its first row: the layout of which less is missing."""
    missing_own = [name for name in columns.names if name not in first.values]
    missing_uniform = [name for name in UNIFORM if name not in first.values]
    if len(missing_own) == len(missing_uniform):
        return SOURCE in first.values
    return len(missing_uniform) < len(missing_own)


def _answer(row: Row, field: str, rule: AnswerRule, read: Callable[[Any, AnswerRule], str]) -> tuple[str, str]:
    """The gold answer, and what is wrong with it."""
    value = value_of(row, field)
    try:
        return read(value, rule), ""
    except ValueError as reason:
        shown = json.dumps(value, default=str, ensure_ascii=False)
        shown = shown if len(shown) <= 60 else f"{shown[:30]} ... {shown[-25:]}"
        return "", f"{row.place}: field {field!r} is {shown}: {reason}"


def _tests(row: Row, tests: str, entry_point: str) -> tuple[str, str]:
    """The program that tests a solution, and what the solution is called; empty where no field is named."""
    if not tests:
        return "", ""
    function = text_of(row, entry_point).strip()
    if not function.isidentifier():
        raise ValueError(f"{row.place}: field {entry_point!r} is {function!r}, expected the name of a function")
    return f"{text_of(row, tests).strip()}\n\ncheck({function})\n", function
