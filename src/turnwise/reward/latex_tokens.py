"""The words of an answer in LaTeX or plain text, and what the known ones stand for."""

import re
from typing import Any

import sympy

from turnwise.reward.bounded_arithmetic import Unreadable

_TOKEN = re.compile(
    r"\\(?:begin|end)\{[a-z]+\}|\\[A-Za-z]+|\\[{}|]|\\\\"
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+\.?\d*|\.\d+|\*\*|<=|>=|[A-Za-z]+|\S"
)
SEPARATORS = frozenset({",", ";", "and", "or"})
RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    r"\lt": "<",
    r"\gt": ">",
    "<=": "<=",
    ">=": ">=",
    r"\le": "<=",
    r"\leq": "<=",
    r"\leqslant": "<=",
    r"\ge": ">=",
    r"\geq": ">=",
    r"\geqslant": ">=",
}
CONSTANTS = {
    "pi": sympy.pi,
    "infty": sympy.oo,
    "infinity": sympy.oo,
    "inf": sympy.oo,
    "e": sympy.E,
    "i": sympy.I,
    "imath": sympy.I,
}
FUNCTIONS: dict[str, Any] = {
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "cot": sympy.cot,
    "sec": sympy.sec,
    "csc": sympy.csc,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "tanh": sympy.tanh,
    "exp": sympy.exp,
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
    "ln": sympy.log,
    "log": sympy.log,
}
GREEK = frozenset(
    re.findall(
        "[A-Za-z]+",
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
        "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell",
    )
)

_MAX_TOKENS = 600
_MAX_WORD = 3  # letters that are a product of variables; longer ones are a word


def tokens(text: str) -> list[str]:
    """The tokens of a normal form.

    Raises:
        Unreadable: There are too many, or words among them.
    """
    found: list[str] = []
    for token in _TOKEN.findall(text.replace(r"\mathbb{R}", r"\reals").replace(r"\mathbb R", r"\reals")):
        is_known = token in FUNCTIONS or token in CONSTANTS or token in SEPARATORS or token == "sqrt"
        if is_known or not token.isalpha():
            found.append(token)
        elif len(token) <= _MAX_WORD:
            found += token
        else:
            raise Unreadable(f"the word {token[:20]!r}")
    if len(found) > _MAX_TOKENS:
        raise Unreadable(f"more than {_MAX_TOKENS} tokens")
    return found
