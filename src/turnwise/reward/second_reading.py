"""Compares two readings: they are equal where their values are, to thirty digits, at chosen points.

Independent of math-verify, its parser and its rules. The grader asks it first, for it needs a tenth of the time, and
the second grader asks nothing else; the text and the plain numbers of `turnwise.reward.answers` come before both.
"""

from itertools import pairwise
from typing import Any

import sympy
from sympy import Expr, Float, Rational

from turnwise.reward.answers import normal_form
from turnwise.reward.bounded_arithmetic import Grid, Items, Pieces, Relation, Unreadable, is_list
from turnwise.reward.latex_reading import read
from turnwise.reward.plain_numbers import MIN_DECIMALS, read_number

_DIGITS = 30
_TOLERANCE = Float("1e-24", _DIGITS)
_POINTS = (Rational(1237, 1021), Rational(-2141, 1907), Rational(577, 811))
"""One value of the first variable each; the others follow in steps of `_STEP`."""
_STEP = Rational(331, 997)


def equal_readings(answer: str, gold: str) -> bool | None:
    """Whether two answers are equal as mathematics; None if one of them cannot be read."""
    verdict, _ = _compared(answer, gold)
    return verdict


def certainly_equal(answer: str, gold: str) -> bool | None:
    """As above, but None too where the answers are of different kinds, say a list and a tuple."""
    verdict, are_of_a_kind = _compared(answer, gold)
    return verdict if verdict or are_of_a_kind else None


def _compared(answer: str, gold: str) -> tuple[bool | None, bool]:
    """The verdict, and whether both readings are of one kind."""
    gold_form, answer_form = normal_form(gold), normal_form(answer)
    try:
        gold_reading, reading = read(gold_form), read(answer_form)
        are_numbers = isinstance(reading, Expr) and isinstance(gold_reading, Expr)
        as_written = read_number(answer_form)
        if as_written is not None and as_written.decimals >= MIN_DECIMALS and are_numbers:
            difference = abs((gold_reading - sympy.sympify(as_written.value)).evalf(_DIGITS))
            return bool(difference.is_number and difference <= Rational(1, 2 * 10**as_written.decimals)), True
        return are_equal(reading, gold_reading), are_numbers or type(reading) is type(gold_reading)
    except (Unreadable, RecursionError):
        return None, False


def are_equal(one: Any, other: Any) -> bool:
    """Whether two readings are equal: lists and sets in any order, tuples and intervals in theirs."""
    one, other = _as_set(one, other), _as_set(other, one)
    if isinstance(one, Expr) and isinstance(other, Expr):
        return _same_values(one, other)
    if isinstance(one, Grid) and isinstance(other, Grid):
        shapes = [[len(row) for row in grid.rows] for grid in (one, other)]
        return shapes[0] == shapes[1] and all(
            _same_values(first, second)
            for row, other_row in zip(one.rows, other.rows, strict=True)
            for first, second in zip(row, other_row, strict=True)
        )
    if isinstance(one, Relation) and isinstance(other, Relation):
        return _same_relations(one, other)
    if isinstance(one, Pieces) and isinstance(other, Pieces):
        return _same_sets(one.pieces, other.pieces)
    if isinstance(one, Items) and isinstance(other, Items):
        if _has_order(one) or _has_order(other):
            return (
                _may_share_order(one, other)
                and len(one.items) == len(other.items)
                and all(map(are_equal, one.items, other.items))
            )
        if is_list(one) or is_list(other):
            return _same_lists(one.items, other.items)
        return _same_sets(one.items, other.items)
    if isinstance(one, Items) and one.ends == ("{", "}") and len(one.items) == 1:
        return are_equal(one.items[0], other)
    if isinstance(other, Items) and other.ends == ("{", "}") and len(other.items) == 1:
        return are_equal(one, other.items[0])
    return False


def _may_share_order(one: Items, other: Items) -> bool:
    """Whether both have the same brackets; a list of three and more may also lack those of the tuple `other`."""
    return one.ends == other.ends or (is_list(one) and other.ends == ("(", ")") and len(other.items) > 2)


def _has_order(items: Items) -> bool:
    return items.ends not in (("", ""), ("{", "}"))


def _same_sets(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(any(are_equal(item, peer) for peer in other) for item in one) and all(
        any(are_equal(peer, item) for peer in one) for item in other
    )


def _same_lists(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether both have the same answers equally often, in any order."""
    left = list(other)
    for item in one:
        place = next((place for place, peer in enumerate(left) if are_equal(item, peer)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _as_set(reading: Any, beside: Any) -> Any:
    """An inequality of one variable as its interval, and "x = 5" as 5, where the other reading is no relation."""
    if isinstance(reading, Items) and is_list(reading):
        others = beside.items if isinstance(beside, Items) else (beside,)
        if not any(isinstance(item, Relation) for item in others):
            return Items(tuple(_as_set(item, None) for item in reading.items))
    if not isinstance(reading, Relation) or isinstance(beside, Relation):
        return reading
    if set(reading.signs) == {"="}:
        return _value_of(reading)
    return _interval(reading)


def _value_of(equation: Relation) -> Any:
    """5 of x = 5, of 5 = x and of x = 2 + 3 = 5; the equation itself where its left side is no single symbol.

    A chain that begins with a number, or has several after its symbol, must hold as far as they go.
    """
    first, *middle, last = equation.sides
    if not middle and isinstance(last, Expr) and last.is_Symbol and isinstance(first, Expr) and first.is_number:
        return first
    numbers = [side for side in (first, *middle) if isinstance(side, Expr) and side.is_number]
    is_name = isinstance(first, Expr) and (first.is_Symbol or first.is_number)
    return last if is_name and all(are_equal(side, last) for side in numbers) else equation


def _interval(relation: Relation) -> Any:
    """The interval of an inequality such as x > 1 or -3 < x <= 2; the relation itself if it is not of that kind."""
    low, high, ends = -sympy.oo, sympy.oo, ["(", ")"]
    for (left, right), sign in zip(pairwise(relation.sides), relation.signs, strict=True):
        if not (isinstance(left, Expr) and isinstance(right, Expr)) or left.is_Symbol == right.is_Symbol:
            return relation
        is_closed = sign.endswith("=")
        if left.is_Symbol == sign.startswith("<"):
            high, ends[1] = (right if left.is_Symbol else left), "]" if is_closed else ")"
        else:
            low, ends[0] = (right if left.is_Symbol else left), "[" if is_closed else "("
    return Items((low, high), (ends[0], ends[1]))


def _same_relations(one: Relation, other: Relation) -> bool:
    """Whether they say the same: the differences of their sides are multiples of one another."""
    if len(one.signs) != 1 or len(other.signs) != 1:
        return one.signs == other.signs and all(map(are_equal, one.sides, other.sides))
    (left, right), (other_left, other_right) = one.sides, other.sides
    if not all(isinstance(side, Expr) for side in (left, right, other_left, other_right)):
        return one.signs == other.signs and are_equal(left, other_left) and are_equal(right, other_right)
    sign, other_sign = one.signs[0], other.signs[0]
    difference, other_difference = left - right, other_left - other_right
    if sign != other_sign and {sign[0], other_sign[0]} == {"<", ">"} and sign[1:] == other_sign[1:]:
        difference, sign = -difference, other_sign
    values = [
        (_value(difference, point), _value(other_difference, point))
        for point in _points(difference.free_symbols | other_difference.free_symbols)
    ]
    if sign != other_sign or any(first is None or not second for first, second in values):
        return False
    ratios = [first / second for first, second in values]
    is_multiple = all(abs(ratio - ratios[0]) < _TOLERANCE * max(1, abs(ratio)) for ratio in ratios) and ratios[0] != 0
    return bool(is_multiple and (sign == "=" or ratios[0] > 0))


def _same_values(one: Any, other: Any) -> bool:
    if one == other:
        return True
    if one.is_infinite or other.is_infinite:
        return False
    comparable = 0
    for point in _points(one.free_symbols | other.free_symbols):
        first, second = _value(one, point), _value(other, point)
        if first is None or second is None:
            continue
        comparable += 1
        if abs(first - second) > _TOLERANCE * max(1, abs(first), abs(second)):
            return False
    return comparable > 0


def _points(symbols: set[Any]) -> list[dict[Any, Any]]:
    ordered = sorted(symbols, key=str)
    starts = _POINTS if ordered else _POINTS[:1]
    return [{symbol: start + _STEP * place for place, symbol in enumerate(ordered)} for start in starts]


def _value(expression: Any, point: dict[Any, Any]) -> Any:
    """Its value at a point as a number of `_DIGITS` digits; None where it has none."""
    value = expression.evalf(_DIGITS, subs=point) if point else expression.evalf(_DIGITS)
    return value if value.is_number and value.is_finite else None
