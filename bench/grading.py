"""Verdicts on made-up answers to 400 problems of mathematics, eight each, none seen before.

Four in ten answers are plain numbers, one in ten is text, one in fifty is hostile (towers of powers, deep nesting,
integrals, long nonsense). The rest are formulas in the LaTeX that sympy prints: surds, polynomials, tuples, intervals,
matrices, half of them the gold answer in another form and half not equal to it. What text and plain numbers leave
open goes to math-verify, `algebra_share` of all. The processes have been started before. `per_core` counts the
processor time of all processes, which other guests of the machine change less.
"""

import os
import random
from collections.abc import Callable
from time import perf_counter

import psutil
import sympy

from turnwise.reward.answers import compare
from turnwise.reward.grading import Grader, close

NUM_PROBLEMS = 400
GROUP_SIZE = 8
HOSTILE = (
    "9^{{9^{{9^{{{0}}}}}}}",
    r"10^{{10^{{{0}}}}}",
    "({0}!)!",
    r"\int_0^1 x^{{{0}}} e^{{x^2}} dx",
    r"\sum_{{k=1}}^{{10^9}} \frac{{1}}{{k^{0}}}",
    r"\sqrt{{" * 60 + "{0}" + "}}" * 60,
    r"\frac{{" * 200 + "{0}",
    "x^" * 300 + "{0}",
    r"(x+1)^{{{0}999}}(x+2)^{{999}}",
    "I think that it is {0} because " * 40,
)
Pairs = list[tuple[str, str]]


def measure() -> dict[str, float]:
    """Rates of the mixture and of its parts, and ratios of rates measured one after another."""
    cores = os.sched_getaffinity(0)
    figures: dict[str, float] = {}
    close()
    started = perf_counter()
    Grader()("2^3", "8")
    figures["first_verdict_s"] = perf_counter() - started
    warm = mixture("warm")
    Grader().grade_all(warm)
    pairs = mixture("measured")
    figures["mixture_answers"], figures["mixture_per_core_answers"] = rates(pairs)
    algebra = [pair for pair in mixture("algebra") if compare(*pair).verdict is None]
    figures["algebra_share"] = len(algebra) / len(pairs)
    figures["algebra_answers"], _ = rates(algebra)
    text = [pair for pair in mixture("text") if compare(*pair).verdict is not None]
    figures["text_answers"], _ = rates(text)
    figures["text_over_algebra"] = figures["text_answers"] / figures["algebra_answers"]
    close()
    os.sched_setaffinity(0, set(list(cores)[:1]))
    Grader().grade_all(warm)
    single, _ = rates(mixture("one core"))
    close()
    os.sched_setaffinity(0, cores)
    return {**figures, "all_cores_over_one": figures["mixture_answers"] / single}


def rates(pairs: Pairs) -> tuple[float, float]:
    """Verdicts in a second of wall clock, and in a second of one core's time."""
    before, started = processor_seconds(), perf_counter()
    Grader().grade_all(pairs)
    wall = perf_counter() - started
    return len(pairs) / wall, len(pairs) / (processor_seconds() - before)


def processor_seconds() -> float:
    """Of this process and its children; those that an answer ended count from the end of their start."""
    processes = [psutil.Process(), *psutil.Process().children()]
    times = [process.cpu_times() for process in processes]
    own = times[0]
    return own.children_user + own.children_system + sum(time.user + time.system for time in times)


def mixture(seed: str) -> Pairs:
    """A group of answers for each problem, as the module says."""
    rng = random.Random(seed)
    pairs: Pairs = []
    for _ in range(NUM_PROBLEMS):
        make = rng.choice(PROBLEMS)
        gold, others = make(rng)
        for _ in range(GROUP_SIZE):
            kind = rng.random()
            if kind < 0.02:
                answer = rng.choice(HOSTILE).format(rng.randrange(2, 10))
            elif kind < 0.12:
                answer = rng.choice(("I do not know {}", "the area of triangle {}", "see step {}")).format(rng.random())
            else:
                answer = rng.choice(others)(rng)
            pairs.append((rng.choice((r"\boxed{{{}}}", "${}$", "{}")).format(answer), gold))
    return pairs


def printed(expression: object, rng: random.Random) -> str:
    """LaTeX with the small liberties that models take."""
    text = str(sympy.latex(expression))
    if rng.random() < 0.5:
        text = text.replace(r"\frac", r"\dfrac")
    return text.replace(r"\left(", "(").replace(r"\right)", ")") if rng.random() < 0.5 else text


Written = Callable[[random.Random], str]


def number(rng: random.Random) -> tuple[str, list[Written]]:
    """An integer, a fraction or a decimal, answered by numbers."""
    numerator, denominator = rng.randrange(1, 5000), rng.choice((1, 1, 1, 2, 4, 5))
    value = sympy.Rational(numerator, denominator)
    right = [str(value), f"{float(value)}", rf"\frac{{{numerator}}}{{{denominator}}}", f"{value} \\text{{ cm}}"]
    return str(value), [lambda rng: rng.choice(right), lambda rng: str(value + rng.randrange(1, 50))]


def surd(rng: random.Random) -> tuple[str, list[Written]]:
    """A sum with roots or pi."""
    root = sympy.sqrt(rng.choice((2, 3, 5, 6, 7, sympy.pi**2)))
    top, add, bottom = rng.randrange(1, 40), rng.randrange(0, 20), rng.randrange(1, 12)
    value = (top * root + add) / bottom

    def other_form(rng: random.Random) -> str:
        factor = rng.randrange(2, 30)
        return rf"\frac{{{top * factor} {sympy.latex(root)} + {add * factor}}}{{{bottom * factor}}}"

    return printed(value, rng), [other_form, lambda rng: printed(value + sympy.Rational(1, rng.randrange(2, 90)), rng)]


def polynomial(rng: random.Random) -> tuple[str, list[Written]]:
    """A product of factors or its expansion."""
    x = sympy.Symbol(rng.choice("xytn"))
    factors = [rng.randrange(1, 6) * x + rng.randrange(-9, 10) for _ in range(rng.randrange(2, 4))]
    value = sympy.prod(factors)

    def other_form(rng: random.Random) -> str:
        number = rng.randrange(2, 40)
        return f"{printed(sympy.expand(value - number * x), rng)} + {number}{x}"

    return printed(value, rng), [other_form, lambda rng: printed(sympy.expand(value + rng.randrange(1, 99)), rng)]


def several(rng: random.Random) -> tuple[str, list[Written]]:
    """A tuple, an interval, a list or a column."""
    values = [
        sympy.Rational(rng.randrange(-30, 30), rng.choice((1, 2, 3))) * rng.choice((1, sympy.sqrt(2))) for _ in "ab"
    ]
    shape = rng.choice(("({}, {})", "[{}, {})", "{}, {}", r"\begin{{pmatrix}} {} \\ {} \end{{pmatrix}}"))

    def written(rng: random.Random, *wanted: object) -> str:
        return shape.format(*(printed(value, rng) for value in wanted))

    def other_form(rng: random.Random) -> str:
        factor = rng.randrange(2, 30)
        return shape.format(rf"\frac{{{sympy.latex(factor * values[0])}}}{{{factor}}}", printed(values[1], rng))

    return written(rng, *values), [other_form, lambda rng: written(rng, values[0] + rng.randrange(1, 90), values[1])]


PROBLEMS = (number, number, number, surd, polynomial, several)
