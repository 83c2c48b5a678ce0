"""Families that a single expression solves: plain, nested, told as a story, or over a short list."""

from random import Random

from turnwise.task.families.family import Draft, Family, number


def draw_expression(rng: Random) -> Draft:
    """`Compute 482 * 37 + 915.`"""
    a, b, c = number(rng, 3, 4), number(rng, 2, 3), number(rng, 3, 4)
    form, value = rng.choice(
        [
            (f"{a} * {b} + {c}", a * b + c),
            (f"{a} * {b} - {c}", a * b - c),
            (f"{c} + {a} * {b}", c + a * b),
        ]
    )
    programs = [f"print({form})", f"x = {form}\nprint(x)"]
    return Draft(statement=f"Compute {form}.", answer=str(value), programs=(rng.choice(programs),))


def draw_nested(rng: Random) -> Draft:
    """`Divide (482 + 3715) * 68 by 97. Remainder?`"""
    a, b, c, d = number(rng, 3, 4), number(rng, 3, 4), number(rng, 2), number(rng, 3)
    value = (a + b) * c % d
    programs = [
        f"print(({a} + {b}) * {c} % {d})",
        f"x = ({a} + {b}) * {c}\nprint(x % {d})",
        f"x = {a} + {b}\nx = x * {c}\nprint(x % {d})",
    ]
    statement = f"Divide ({a} + {b}) * {c} by {d}. Remainder?"
    return Draft(statement=statement, answer=str(value), programs=(rng.choice(programs),))


def draw_story(rng: Random) -> Draft:
    """`Ann has 3812 coins and gets 47 a day. Coins after 96 days?`"""
    many, rate, times, price = number(rng, 3, 4), number(rng, 2), number(rng, 2), number(rng, 2, 3)
    statement, form, value = rng.choice(
        [
            (
                f"Ann has {many} coins and gets {rate} a day. Coins after {times} days?",
                f"{many} + {rate} * {times}",
                many + rate * times,
            ),
            (
                f"A pool of {many * 10} loses {rate} an hour. Left after {times} hours?",
                f"{many * 10} - {rate} * {times}",
                many * 10 - rate * times,
            ),
            (
                f"Tom buys {times} pens at {price} and {rate} books at {many}. Cost?",
                f"{times} * {price} + {rate} * {many}",
                times * price + rate * many,
            ),
        ]
    )
    programs = [f"print({form})", f"x = {form}\nprint(x)"]
    return Draft(statement=statement, answer=str(value), programs=(rng.choice(programs),))


def draw_largest(rng: Random) -> Draft:
    """`Sum of the 3 largest of 412, 87, 935, 260, 551?`"""
    values = [number(rng, 2, 3) for _ in range(5)]
    listed = ", ".join(map(str, values))
    count, order = rng.choice([2, 3]), rng.choice(["largest", "smallest"])
    value = sum(sorted(values, reverse=order == "largest")[:count])
    cut = f"-{count}:" if order == "largest" else f":{count}"
    programs = [f"print(sum(sorted([{listed}])[{cut}]))", f"a = sorted([{listed}])\nprint(sum(a[{cut}]))"]
    statement = f"Sum of the {count} {order} of {listed}?"
    return Draft(statement=statement, answer=str(value), programs=(rng.choice(programs),))


EXPRESSIONS = (
    Family(name="expression", draw=draw_expression, skill=0.6, slips=((r"\*", "+"), (r" [+-] ", " * "))),
    Family(name="nested", draw=draw_nested, skill=0.25, slips=((r"%", "//"), (r"\*", "+"))),
    Family(name="story", draw=draw_story, skill=0.4, slips=((r"\*", "+"), (r" [+-] ", " * "))),
    Family(name="largest", draw=draw_largest, skill=0.35, slips=((r"sorted\((.*?)\)", r"(\1)"),)),
)
