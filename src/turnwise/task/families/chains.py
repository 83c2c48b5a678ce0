"""Families of two calls: the second one needs what the first one printed, or repairs its error."""

import math
from random import Random

from turnwise.task.families.divisibility import next_prime, related_pair
from turnwise.task.families.family import RESULT, Draft, Family, number


def draw_gcd_power(rng: Random) -> Draft:
    """`Let g = gcd(1260, 882). Compute g^3 + 913.`"""
    a, b = related_pair(rng)
    power, added = rng.choice([2, 3]), number(rng, 3)
    programs = (
        rng.choice(
            [f"import math\nprint(math.gcd({a}, {b}))", f"a, b = {a}, {b}\nwhile b:\n    a, b = b, a % b\nprint(a)"]
        ),
        rng.choice([f"print({RESULT} ** {power} + {added})", f"g = {RESULT}\nprint(g ** {power} + {added})"]),
    )
    statement = f"Let g = gcd({a}, {b}). Compute g^{power} + {added}."
    return Draft(statement=statement, answer=str(math.gcd(a, b) ** power + added), programs=programs)


def draw_prime_product(rng: Random) -> Draft:
    """`Let p be the smallest prime above 812. Compute 47 * p - 455.`"""
    value, factor, taken = number(rng, 3, 4), number(rng, 2), number(rng, 3)
    programs = (
        f"n = {value} + 1\nwhile any(n % d == 0 for d in range(2, n)):\n    n += 1\nprint(n)",
        rng.choice([f"print({factor} * {RESULT} - {taken})", f"p = {RESULT}\nprint({factor} * p - {taken})"]),
    )
    statement = f"Let p be the smallest prime above {value}. Compute {factor} * p - {taken}."
    return Draft(statement=statement, answer=str(factor * next_prime(value) - taken), programs=programs)


def draw_remainder_digits(rng: Random) -> Draft:
    """`Let r = 482 * 37 mod 911. Digit sum of r^25?`"""
    a, b, modulus, power = number(rng, 3), number(rng, 2, 3), number(rng, 3), number(rng, 2)
    remainder = a * b % modulus
    if remainder < 10:
        return draw_remainder_digits(rng)
    programs = (
        f"print({a} * {b} % {modulus})",
        rng.choice(
            [f"print(sum(map(int, str({RESULT} ** {power}))))", f"print(sum(int(c) for c in str({RESULT} ** {power})))"]
        ),
    )
    statement = f"Let r = {a} * {b} mod {modulus}. Digit sum of r^{power}?"
    return Draft(statement=statement, answer=str(sum(map(int, str(remainder**power)))), programs=programs)


def draw_root_sum(rng: Random) -> Draft:
    """`Sum of the whole numbers up to the root of 58241?` The plain root is a float, which `range` refuses."""
    value = number(rng, 4, 5)
    root = math.isqrt(value)
    direct = rng.choice(
        [f"import math\nprint(sum(range(math.isqrt({value}) + 1)))", f"print(sum(range(int({value} ** 0.5) + 1)))"]
    )
    refused = f"print(sum(range({value} ** 0.5 + 1)))"
    programs = (direct,) if rng.random() < 0.3 else (refused, direct)
    return Draft(
        statement=f"Sum of the whole numbers up to the root of {value}?",
        answer=str(root * (root + 1) // 2),
        programs=programs,
    )


CHAINS = (
    Family(name="gcd_power", draw=draw_gcd_power, skill=0.3, slips=((r"gcd", "lcm"), (r"\*\*", "*"))),
    Family(name="prime_product", draw=draw_prime_product, skill=0.15, slips=((r"2, n\)", "2, 5)"), (r" - ", " + "))),
    Family(name="remainder_digits", draw=draw_remainder_digits, skill=0.2, slips=((r"%", "//"), (r"\*\*", "*"))),
    Family(name="root_sum", draw=draw_root_sum, skill=0.2, slips=((r" \+ 1\)", ")"), (r"\*\* 0.5", "// 2"))),
)
