r"""Reads an answer in LaTeX or plain text as mathematics, by a grammar of its own; nothing of it is executed.

    answer   = relation { ("," | ";" | "and" | "or") relation }
    relation = union { ("=" | "<" | \le | ...) union } | symbol \in union
    union    = sum { \cup sum }
    sum      = [sign] product { ("+" | "-" | \pm) product }
    product  = power { [\cdot | \times | "*" | "/"] power }
    power    = atom { "^" argument | "!" | "%" }

Sums, products and powers are worked out as they are read (`turnwise.reward.bounded_arithmetic`). What the
grammar does not know is refused.
"""

from typing import Any, NoReturn

import sympy
from sympy import Expr, Integer, Rational, Symbol, oo

from turnwise.reward.bounded_arithmetic import (
    Grid,
    Items,
    Pieces,
    Relation,
    Unreadable,
    binomial,
    factorial,
    is_list,
    number,
    power,
    quotient,
    signed,
    times,
    values_of,
)
from turnwise.reward.latex_tokens import CONSTANTS, FUNCTIONS, GREEK, RELATIONS, SEPARATORS, tokens

_MAX_DEPTH = 40
_TIMES = {r"\cdot", r"\times", "*"}
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}


def read(text: str) -> Any:
    """What the normal form `text` of an answer says.

    Raises:
        Unreadable: The grammar does not know it, or it would be huge.
    """
    reader = _Reader(tokens(text))
    answer = reader.items(frozenset())
    if reader.peek():
        reader.refuse()
    return answer


class _Reader:
    """Reads tokens by recursive descent; each method reads what its name says and moves on."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0
        self.bars = 0

    def refuse(self) -> NoReturn:
        raise Unreadable(f"{self.peek()[:20]!r} at token {self.place + 1}")

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if not token or (wanted and token not in wanted):
            self.refuse()
        self.place += 1
        return token

    def items(self, ends: frozenset[str]) -> Any:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.refuse()
        found = [self.relation()]
        while self.peek() in SEPARATORS:
            while self.peek() in SEPARATORS:
                self.take()
            found.append(self.relation())
        self.depth -= 1
        if self.peek() and self.peek() not in ends:
            self.refuse()
        flat = [item for part in found for item in (part.items if is_list(part) else (part,))]
        return flat[0] if len(flat) == 1 else Items(tuple(flat))

    def relation(self) -> Any:
        sides, signs = [self.union()], []
        if self.peek() == r"\in":
            self.take()
            return self.union()
        while self.peek() in RELATIONS:
            signs.append(RELATIONS[self.take()])
            sides.append(self.union())
        return Relation(tuple(sides), tuple(signs)) if signs else sides[0]

    def union(self) -> Any:
        pieces = [self.sum()]
        while self.peek() == r"\cup":
            self.take()
            pieces.append(self.sum())
        return Pieces(tuple(pieces)) if len(pieces) > 1 else pieces[0]

    def sum(self) -> Any:
        totals: list[Any] = [Integer(0)]
        first = True
        while first or self.peek() in ("+", "-", r"\pm"):
            sign = self.take() if self.peek() in ("+", "-", r"\pm") else "+"
            while self.peek() in ("+", "-"):
                sign = {"+": "-", "-": "+"}.get(sign, sign) if self.take() == "-" else sign
            term = self.product()
            if first and sign == "+" and not isinstance(term, Expr):
                return term
            terms = [part for value in values_of(term) for part in signed(sign, number(value))]
            totals = [total + value for total in totals for value in terms]
            first = False
            if len(totals) > 16:
                self.refuse()
        return totals[0] if len(totals) == 1 else Items(tuple(totals))

    def product(self) -> Any:
        result = self.power()
        while True:
            token = self.peek()
            if token in _TIMES or token in ("/", r"\div"):
                self.take()
                factor = self.power() if self.peek() != "-" else self.negated()
                result = times(result, factor if token in _TIMES else quotient(Integer(1), factor))
            elif self.starts_a_factor(token):
                factor = self.power()
                result = times(result, factor)
            else:
                return result

    def negated(self) -> Any:
        self.take("-")
        return -number(self.power())

    def starts_a_factor(self, token: str) -> bool:
        if token.startswith("\\"):
            word = token[1:]
            return word in CONSTANTS or word in FUNCTIONS or word in GREEK or word in ("frac", "sqrt", "binom")
        if token == "|":
            return self.bars == 0
        return token in ("(", "[", "{", "sqrt") or (token.isalpha() and token not in SEPARATORS)

    def power(self) -> Any:
        is_number = self.peek()[:1].isdigit() or self.peek()[:1] == "."
        result = self.atom()
        if is_number and result.is_Integer and self.peek() == r"\frac":
            return result + self.proper_fraction()
        while self.peek() in ("^", "**", "!", "%"):
            token = self.take()
            if token == "!":
                result = factorial(result)
            elif token == "%":
                result = number(result) / 100
            elif self.peek() == r"\circ":
                self.take()
            else:
                result = power(result, self.argument())
        return result

    def proper_fraction(self) -> Expr:
        self.take(r"\frac")
        fraction = quotient(self.argument(), self.argument())
        if not fraction.is_Rational or not 0 < fraction < 1:
            self.refuse()
        return fraction

    def argument(self) -> Any:
        """What belongs to a command or to ^: a group in braces, or one token."""
        if self.peek() in ("{", "("):
            return self.bracketed()
        if self.peek() == "-":
            return self.negated()
        token = self.peek()
        if token.isdigit() and len(token) > 1 and self.place and self.tokens[self.place - 1] not in ("^", "**"):
            self.tokens[self.place : self.place + 1] = list(token)  # \frac12
        return self.atom()

    def bracketed(self) -> Any:
        opening = self.take()
        closings = frozenset({")", "]"}) if opening in ("(", "[") else frozenset({_CLOSING[opening]})
        inside = self.items(closings)
        closing = self.take(*closings)
        if opening == r"\{":
            return Items(inside.items if is_list(inside) else (inside,), ("{", "}"))
        if is_list(inside) and opening != "{" and len(inside.items) > 1 and not self.was_plus_minus(inside):
            return Items(inside.items, (opening, closing))
        if closing != _CLOSING[opening]:
            self.refuse()
        return inside

    def was_plus_minus(self, inside: Items) -> bool:
        """Whether the values of a group come of one \\pm and not of a list."""
        return len(inside.items) == 2 and r"\pm" in self.tokens and "," not in self.tokens

    def atom(self) -> Any:
        token = self.peek()
        word = token.removeprefix("\\")
        if token in ("(", "[", "{", r"\{"):
            return self.bracketed()
        if token in ("|", r"\lvert", r"\vert", r"\|"):
            return self.absolute()
        self.take()
        if token[:1].isdigit() or (token[:1] == "." and len(token) > 1):
            return Rational(token.replace(",", ""))
        if token == r"\reals":
            return Items((-oo, oo), ("(", ")"))
        if word in FUNCTIONS:
            return self.function(word)
        if token == r"\frac":
            return quotient(self.argument(), self.argument())
        if token in ("sqrt", r"\sqrt"):
            return self.root()
        if token == r"\binom":
            return binomial(self.argument(), self.argument())
        if token.startswith(r"\begin") and token.endswith("matrix}"):
            return self.matrix(token.replace("begin", "end"))
        if word in CONSTANTS:
            return CONSTANTS[word]
        if word in GREEK or (token.isalpha() and len(token) == 1):
            return self.symbol(word)
        self.place -= 1
        return self.refuse()

    def symbol(self, name: str) -> Symbol:
        if self.peek() == "_":
            self.take()
            if self.peek() == "{":
                end = self.tokens.index("}", self.place) if "}" in self.tokens[self.place :] else self.refuse()
                name += "_" + "".join(self.tokens[self.place + 1 : end])
                self.place = end + 1
            else:
                name += "_" + self.take()
        return Symbol(name)

    def absolute(self) -> Expr:
        opening = self.take()
        self.bars += 1
        inside = number(self.sum())
        self.bars -= 1
        self.take({r"\lvert": r"\rvert"}.get(opening, opening))
        return sympy.Abs(inside)

    def root(self) -> Expr:
        degree: Any = Integer(2)
        if self.peek() == "[":
            self.take()
            degree = number(self.sum())
            self.take("]")
        if not degree.is_Integer or not 1 < degree < 100:
            self.refuse()
        return number(self.argument()) ** Rational(1, degree)

    def function(self, name: str) -> Expr:
        base = exponent = None
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                base = number(self.argument())
            else:
                exponent = number(self.argument())
        if self.peek() in ("(", "{"):
            argument = number(self.bracketed())
        else:
            argument = number(self.power())
            while self.starts_a_factor(self.peek()) and self.peek().removeprefix("\\") not in FUNCTIONS:
                argument = times(argument, self.power())
        value = FUNCTIONS[name](argument) if base is None else sympy.log(argument, base)
        return value if exponent is None else power(value, exponent)

    def matrix(self, ending: str) -> Grid:
        rows: list[tuple[Expr, ...]] = []
        row: list[Expr] = []
        while self.peek() != ending:
            row.append(number(self.sum()))
            if self.peek() == "&":
                self.take()
                continue
            rows.append(tuple(row))
            row = []
            if self.peek() == r"\\":
                self.take()
        self.take(ending)
        return Grid(tuple(rows))
