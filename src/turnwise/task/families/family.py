"""What a problem family is: a way to draw problems, programs that solve them, and how people get them wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

RESULT = "<result>"
"""Stands in a program or a turn for what the tool printed last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """One drawn problem.

    `programs` solve it one tool call at a time. The tool forgets variables between calls, so a later program
    either carries the previous output in place of `RESULT`, or repairs the previous program, which fails.
    """

    statement: str
    answer: str
    programs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A kind of problem.

    `skill` in [0, 1] is the share of its warm-start demonstrations that are flawless; low means hard to learn.
    `slips` are plausible mistakes: a regular expression found in its programs and what replaces every match.
    """

    name: str
    draw: Callable[[Random], Draft]
    skill: float
    slips: tuple[tuple[str, str], ...]


def number(rng: Random, *digit_counts: int) -> int:
    """A whole number with one of `digit_counts` digits, each count equally likely."""
    digits = rng.choice(digit_counts)
    return rng.randrange(10 ** (digits - 1), 10**digits)
