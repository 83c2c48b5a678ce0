"""Families about the digits of numbers: other bases, digit sums and lengths of powers."""

import math
from random import Random

from turnwise.task.families.family import Draft, Family, number


def to_base(value: int, base: int) -> str:
    """The digits of a positive `value` in `base`, which is at most 10."""
    digits = ""
    while value:
        value, digit = divmod(value, base)
        digits = str(digit) + digits
    return digits


def draw_to_base(rng: Random) -> Draft:
    """`Write 4821 in base 7.`"""
    value, base = number(rng, 3, 4), rng.randint(5, 9)
    programs = [
        f's, n = "", {value}\nwhile n:\n    s, n = str(n % {base}) + s, n // {base}\nprint(s)',
        f's, n = "", {value}\nwhile n > 0:\n    s = str(n % {base}) + s\n    n = n // {base}\nprint(s)',
    ]
    statement = f"Write {value} in base {base}."
    return Draft(statement=statement, answer=to_base(value, base), programs=(rng.choice(programs),))


def draw_from_base(rng: Random) -> Draft:
    """`The base 7 number 24051 in base 10?`"""
    value, base = number(rng, 3, 4), rng.randint(5, 9)
    digits = to_base(value, base)
    programs = [
        f'print(int("{digits}", {base}))',
        f'n = 0\nfor c in "{digits}":\n    n = n * {base} + int(c)\nprint(n)',
    ]
    statement = f"The base {base} number {digits} in base 10?"
    return Draft(statement=statement, answer=str(value), programs=(rng.choice(programs),))


def draw_digit_sum(rng: Random) -> Draft:
    """`Digit sum of 17^83?`"""
    base, exponent = number(rng, 2, 3), number(rng, 2)
    programs = [
        f"print(sum(map(int, str({base} ** {exponent}))))",
        f"print(sum(int(c) for c in str({base} ** {exponent})))",
        f"t = 0\nfor c in str({base} ** {exponent}):\n    t += int(c)\nprint(t)",
    ]
    answer = sum(map(int, str(base**exponent)))
    return Draft(statement=f"Digit sum of {base}^{exponent}?", answer=str(answer), programs=(rng.choice(programs),))


def draw_length(rng: Random) -> Draft:
    """`How many digits has 37^5312?` Python refuses to print such a number, so `len(str(...))` fails first."""
    base, exponent = rng.randrange(11, 99), rng.randrange(4500, 9999)
    answer = int(exponent * math.log10(base)) + 1  # Exact: no such logarithm comes within 1e-7 of a whole number.
    direct = f"from math import log10\nprint(int({exponent} * log10({base})) + 1)"
    refused = f"print(len(str({base} ** {exponent})))"
    programs = (direct,) if rng.random() < 0.3 else (refused, direct)
    return Draft(statement=f"How many digits has {base}^{exponent}?", answer=str(answer), programs=programs)


DIGITS = (
    Family(name="to_base", draw=draw_to_base, skill=0.15, slips=((r"\+ s", "+ s[1:]"), (r'"", (\d+)', r'"0", \1'))),
    Family(
        name="from_base",
        draw=draw_from_base,
        skill=0.45,
        slips=((r'int\("(\d+)", (\d+)\)', r"\1 * \2"), (r"n \* (\d+)", r"n + \1")),
    ),
    Family(name="digit_sum", draw=draw_digit_sum, skill=0.4, slips=((r"\*\*", "*"), (r"\*\*", "+"))),
    Family(name="length", draw=draw_length, skill=0.2, slips=((r"log10", "log"), (r" \+ 1\)", ")"))),
)
