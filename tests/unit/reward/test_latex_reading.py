import contextlib

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import I, Rational, Symbol, oo, pi, sqrt

from turnwise.reward.bounded_arithmetic import Grid, Items, Pieces, Relation, Unreadable
from turnwise.reward.latex_reading import read

x, y = Symbol("x"), Symbol("y")
ONE, TWO, THREE, FOUR = map(sympy.Integer, (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", sympy.Integer(7)),
        ("1,234.5", Rational(2469, 2)),
        (".25", Rational(1, 4)),
        ("-x^2", -(x**2)),
        ("2x-3y", 2 * x - 3 * y),
        (r"\frac12x", x / 2),
        (r"3\frac{1}{2}", Rational(7, 2)),
        (r"\frac{x+1}{2}/3", (x + 1) / 6),
        ("2/3x", 2 * x / 3),
        ("x(x+1)", x * (x + 1)),
        ("x**3", x**3),
        ("2^{10}", sympy.Integer(1024)),
        ("e^{-1}", sympy.exp(-1)),
        (r"\sqrt[3]{2}\pi", pi * sympy.cbrt(2)),
        (r"\sqrt2x", sqrt(2) * x),
        ("|x-1|", sympy.Abs(x - 1)),
        ("6+9i", 6 + 9 * I),
        (r"\sin^2 x", sympy.sin(x) ** 2),
        (r"\sin 2x\cos y", sympy.sin(2 * x) * sympy.cos(y)),
        (r"\log_2(8)", sympy.Integer(3)),
        (r"\binom{5}{2}", sympy.Integer(10)),
        ("4!", sympy.Integer(24)),
        ("50%", Rational(1, 2)),
        ("a_1", Symbol("a_1")),
        ("a_{12}", Symbol("a_12")),
        (r"\theta", Symbol("theta")),
        ("--3", sympy.Integer(3)),
        ("1,2", Items((sympy.Integer(1), sympy.Integer(2)))),
        ("x or y", Items((x, y))),
        (r"\{x,y\}", Items((x, y), ("{", "}"))),
        ("(x,y]", Items((x, y), ("(", "]"))),
        (r"x\pm1", Items((x + 1, x - 1))),
        (r"\frac{1\pm\sqrt{5}}{2}", Items(((1 + sqrt(5)) / 2, (1 - sqrt(5)) / 2))),
        (r"\mathbb{R}", Items((-oo, oo), ("(", ")"))),
        (r"(1,2)\cup(3,4)", Pieces((Items((ONE, TWO), ("(", ")")), Items((THREE, FOUR), ("(", ")"))))),
        (r"x\in(x,y)", Items((x, y), ("(", ")"))),
        (r"1<x\le y", Relation((sympy.Integer(1), x, y), ("<", "<="))),
        (r"\begin{pmatrix}x&1\\y&2\end{pmatrix}", Grid(((x, sympy.Integer(1)), (y, sympy.Integer(2))))),
    ],
)
def test_what_is_read(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "(1",
        "1)",
        "[1)",
        "2 3",
        r"\frac{1}{0}",
        "0^{-1}",
        r"\sqrt[0]{2}",
        "word",
        "10^{10^{10}}",
        "2^{99999}",
        "501!",
        r"\binom{9999}{3}",
        r"\sum_{k=1}^{3} k",
        r"\begin{cases}1\end{cases}",
        r"\begin{pmatrix}1",
        "x+",
        "x^",
        "a_{1",
        "(" * 100 + "1" + ")" * 100,
        "1+" * 400 + "1",
        r"\sqrt" * 500 + "2",
    ],
)
def test_what_is_refused(text):
    with pytest.raises((Unreadable, RecursionError)):
        read(text)


@settings(deadline=None)
@given(st.text(alphabet="0123456789xyei+-*/^_(){}[]|!%,;=<>& .\\", max_size=40))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(Unreadable):
        read(text)
