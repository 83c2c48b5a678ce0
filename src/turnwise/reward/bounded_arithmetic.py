"""What answers are as mathematics, and the arithmetic on them: exact, and refusing what would be huge."""

from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr

_MAX_BITS = 20_000
_MAX_FACTORIAL = 500
_MAX_ANSWERS = 16


class Unreadable(ValueError):
    """The text is no answer that the grammar knows."""


@dataclass(frozen=True)
class Items:
    """Several answers; `ends` are the brackets round them: "" and "" for a list, `[` and `)` say for an interval."""

    items: tuple[Any, ...]
    ends: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Pieces:
    """The union of sets."""

    pieces: tuple[Any, ...]


@dataclass(frozen=True)
class Relation:
    """Sides and the signs between them."""

    sides: tuple[Any, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A matrix by rows."""

    rows: tuple[tuple[Expr, ...], ...]


def is_list(value: Any) -> bool:
    """Whether it is several answers without brackets."""
    return isinstance(value, Items) and value.ends == ("", "")


def values_of(value: Any) -> tuple[Any, ...]:
    """The answers of a list; the value itself if it is none."""
    return value.items if is_list(value) else (value,)


def number(value: Any) -> Any:
    """The value, which must be a single expression."""
    if not isinstance(value, Expr):
        raise Unreadable(f"a number is expected, not {type(value).__name__}")
    return value


def signed(sign: str, value: Any) -> tuple[Any, ...]:
    """The value with a sign in front; two values for plus-minus."""
    return {"+": (value,), "-": (-value,), r"\pm": (value, -value)}[sign]


def times(one: Any, other: Any) -> Any:
    """The product; each of several values is multiplied."""
    ones, others = (values_of(value) for value in (one, other))
    return _one_or_several([number(first) * number(second) for first in ones for second in others])


def quotient(top: Any, bottom: Any) -> Any:
    """The quotient; each of several values is divided."""
    if number(bottom).is_zero:
        raise Unreadable("division by zero")
    return _one_or_several([number(value) / bottom for value in values_of(top)])


def _one_or_several(values: list[Any]) -> Any:
    if len(values) > _MAX_ANSWERS:
        raise Unreadable(f"more than {_MAX_ANSWERS} values")
    return values[0] if len(values) == 1 else Items(tuple(values))


def power(base: Any, exponent: Any) -> Any:
    """The power, if its digits are few."""
    base, exponent = number(base), number(exponent)
    if exponent.is_Rational:
        bits = max(abs(int(exponent.p)), 1) * (_bits(base) if base.is_Rational else 2)
        if bits > _MAX_BITS or exponent.q > 100:
            raise Unreadable("a huge power")
    elif exponent.is_number and not exponent.is_infinite and abs(complex(exponent.evalf(5))) > 1000:
        raise Unreadable("a huge power")
    if base.is_zero and not exponent.is_positive:
        raise Unreadable("no power of zero")
    return base**exponent


def _bits(value: Any) -> int:
    return int(value.p).bit_length() + int(value.q).bit_length()


def factorial(value: Any) -> Any:
    """The factorial of a small number."""
    if not (number(value).is_Integer and 0 <= value <= _MAX_FACTORIAL):
        raise Unreadable("a factorial of no small number")
    return sympy.factorial(value)


def binomial(top: Any, bottom: Any) -> Any:
    """The binomial coefficient of small numbers."""
    if not (number(top).is_Integer and number(bottom).is_Integer and 0 <= bottom <= top <= 2 * _MAX_FACTORIAL):
        raise Unreadable("a binomial coefficient of no small numbers")
    return sympy.binomial(top, bottom)
