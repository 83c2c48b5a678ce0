"""Families about divisors, primes and remainders."""

import math
from random import Random

from turnwise.task.families.family import Draft, Family, number


def is_prime(value: int) -> bool:
    """Whether `value` is prime, by trial division."""
    return value > 1 and all(value % d for d in range(2, math.isqrt(value) + 1))


def next_prime(value: int) -> int:
    """The smallest prime above `value`."""
    value += 1
    while not is_prime(value):
        value += 1
    return value


def related_pair(rng: Random) -> tuple[int, int]:
    """Two different numbers of two to four digits with a common divisor of two or three digits."""
    divisor = number(rng, 2, 3)
    x, y = rng.sample(range(2, max(9999 // divisor // 3, 9)), 2)
    return divisor * x, divisor * y


def draw_gcd(rng: Random) -> Draft:
    """`gcd of 1260 and 882?`"""
    a, b = related_pair(rng)
    programs = [
        f"import math\nprint(math.gcd({a}, {b}))",
        f"from math import gcd\nprint(gcd({a}, {b}))",
        f"a, b = {a}, {b}\nwhile b:\n    a, b = b, a % b\nprint(a)",
    ]
    return Draft(statement=f"gcd of {a} and {b}?", answer=str(math.gcd(a, b)), programs=(rng.choice(programs),))


def draw_lcm(rng: Random) -> Draft:
    """`lcm of 126 and 882?`"""
    a, b = related_pair(rng)
    programs = [
        f"import math\nprint(math.lcm({a}, {b}))",
        f"from math import lcm\nprint(lcm({a}, {b}))",
        f"import math\na, b = {a}, {b}\nprint(a * b // math.gcd(a, b))",
    ]
    return Draft(statement=f"lcm of {a} and {b}?", answer=str(math.lcm(a, b)), programs=(rng.choice(programs),))


def draw_power_mod(rng: Random) -> Draft:
    """`Remainder of 37^214 divided by 911?`"""
    base, exponent, modulus = number(rng, 2, 3), number(rng, 2, 3), number(rng, 3, 4)
    programs = [f"print(pow({base}, {exponent}, {modulus}))", f"print({base} ** {exponent} % {modulus})"]
    return Draft(
        statement=f"Remainder of {base}^{exponent} divided by {modulus}?",
        answer=str(pow(base, exponent, modulus)),
        programs=(rng.choice(programs),),
    )


def draw_prime_factor(rng: Random) -> Draft:
    """`Largest prime factor of 9021?`"""
    value = number(rng, 3, 4)
    factor = max(p for p in range(2, value + 1) if value % p == 0 and is_prime(p))
    programs = [
        f"n, p = {value}, 2\nwhile p < n:\n    if n % p: p += 1\n    else: n //= p\nprint(p)",
        f"n = {value}\nfor p in range(2, n):\n    while n % p == 0 and n > p: n //= p\nprint(n)",
    ]
    statement = f"Largest prime factor of {value}?"
    return Draft(statement=statement, answer=str(factor), programs=(rng.choice(programs),))


def draw_divisor_sum(rng: Random) -> Draft:
    """`Sum of the divisors of 5040?`"""
    value = number(rng, 3, 4)
    programs = [
        f"n = {value}\nprint(sum(d for d in range(1, n + 1) if n % d == 0))",
        f"print(sum(d for d in range(1, {value} + 1) if {value} % d == 0))",
    ]
    return Draft(
        statement=f"Sum of the divisors of {value}?",
        answer=str(sum(d for d in range(1, value + 1) if value % d == 0)),
        programs=(rng.choice(programs),),
    )


def draw_next_prime(rng: Random) -> Draft:
    """`Smallest prime above 3187?`"""
    value = number(rng, 3, 4)
    programs = [
        f"n = {value} + 1\nwhile any(n % d == 0 for d in range(2, n)):\n    n += 1\nprint(n)",
        f"n = {value} + 1\nwhile not all(n % d for d in range(2, n)):\n    n += 1\nprint(n)",
    ]
    statement = f"Smallest prime above {value}?"
    return Draft(statement=statement, answer=str(next_prime(value)), programs=(rng.choice(programs),))


def draw_prime_count(rng: Random) -> Draft:
    """`How many primes from 120 to 1487?`"""
    low, high = number(rng, 2, 3), rng.randrange(1000, 2000)
    programs = [
        f"print(sum(all(n % d for d in range(2, n)) for n in range({low}, {high} + 1)))",
        f"t = 0\nfor n in range({low}, {high} + 1):\n    t += all(n % d for d in range(2, n))\nprint(t)",
    ]
    return Draft(
        statement=f"How many primes from {low} to {high}?",
        answer=str(sum(map(is_prime, range(low, high + 1)))),
        programs=(rng.choice(programs),),
    )


DIVISIBILITY = (
    Family(name="gcd", draw=draw_gcd, skill=0.55, slips=((r"gcd", "lcm"), (r"print\(a\)", "print(b)"))),
    Family(name="lcm", draw=draw_lcm, skill=0.45, slips=((r"lcm", "gcd"), (r" // .*\)", ")"))),
    Family(
        name="power_mod",
        draw=draw_power_mod,
        skill=0.5,
        slips=((r"pow\((\d+), (\d+), (\d+)\)", r"\1 * \2 % \3"), (r"\*\*", "*")),
    ),
    Family(
        name="prime_factor",
        draw=draw_prime_factor,
        skill=0.15,
        slips=((r"n //= p", "n -= p"), (r"while (n % p == 0) and n > p: n //= p", r"if \1: break")),
    ),
    Family(name="divisor_sum", draw=draw_divisor_sum, skill=0.35, slips=((r" \+ 1\)", ")"), (r"d for", "1 for"))),
    Family(name="next_prime", draw=draw_next_prime, skill=0.3, slips=((r"any\(", "all("), (r"2, n\)", "2, 5)"))),
    Family(name="prime_count", draw=draw_prime_count, skill=0.15, slips=((r"all\(", "any("), (r"\(2, n", "(1, n"))),
)
