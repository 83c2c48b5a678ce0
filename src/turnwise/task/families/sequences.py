"""Families that run over a range or repeat a step."""

from random import Random

from turnwise.task.families.family import Draft, Family, number


def draw_range_sum(rng: Random) -> Draft:
    """`Sum of the squares from 31 to 188?`"""
    low, high = number(rng, 2), rng.randrange(100, 400)
    word, term, power = rng.choice([("squares", "n * n", 2), ("cubes", "n ** 3", 3)])
    programs = [
        f"print(sum({term} for n in range({low}, {high} + 1)))",
        f"t = 0\nfor n in range({low}, {high} + 1):\n    t += {term}\nprint(t)",
    ]
    return Draft(
        statement=f"Sum of the {word} from {low} to {high}?",
        answer=str(sum(n**power for n in range(low, high + 1))),
        programs=(rng.choice(programs),),
    )


def draw_multiples(rng: Random) -> Draft:
    """`How many multiples of 7 from 120 to 9400?`"""
    step, low, high = rng.randint(3, 19), number(rng, 2, 3), number(rng, 4)
    programs = [
        f"print(sum(n % {step} == 0 for n in range({low}, {high} + 1)))",
        f"print({high} // {step} - ({low} - 1) // {step})",
    ]
    return Draft(
        statement=f"How many multiples of {step} from {low} to {high}?",
        answer=str(sum(n % step == 0 for n in range(low, high + 1))),
        programs=(rng.choice(programs),),
    )


def draw_conditions(rng: Random) -> Draft:
    """`Sum the multiples of 6, not of 9, up to 840.`"""
    kept, dropped, limit = rng.randint(3, 9), rng.randint(11, 19), number(rng, 3, 4)
    programs = [
        f"print(sum(n for n in range({limit} + 1) if n % {kept} == 0 and n % {dropped}))",
        f"t = 0\nfor n in range(0, {limit} + 1, {kept}):\n    if n % {dropped}: t += n\nprint(t)",
    ]
    return Draft(
        statement=f"Sum the multiples of {kept}, not of {dropped}, up to {limit}.",
        answer=str(sum(n for n in range(limit + 1) if n % kept == 0 and n % dropped != 0)),
        programs=(rng.choice(programs),),
    )


def draw_repeat(rng: Random) -> Draft:
    """`Start at 57. Do 8 times: times 3, plus 46. Result?`"""
    start, times, factor, added = number(rng, 2, 3), rng.randint(4, 9), rng.randint(2, 4), number(rng, 2)
    value = start
    for _ in range(times):
        value = value * factor + added
    programs = [
        f"x = {start}\nfor _ in range({times}):\n    x = x * {factor} + {added}\nprint(x)",
        f"x, i = {start}, 0\nwhile i < {times}:\n    x, i = x * {factor} + {added}, i + 1\nprint(x)",
    ]
    statement = f"Start at {start}. Do {times} times: times {factor}, plus {added}. Result?"
    return Draft(statement=statement, answer=str(value), programs=(rng.choice(programs),))


def draw_recurrence(rng: Random) -> Draft:
    """`Start 31, 7; add the last two. Term 18?`"""
    first, second, index = number(rng, 1, 2), number(rng, 2), rng.randint(10, 24)
    a, b = first, second
    for _ in range(index - 2):
        a, b = b, a + b
    programs = [
        f"a, b = {first}, {second}\nfor _ in range({index} - 2):\n    a, b = b, a + b\nprint(b)",
        f"a = [{first}, {second}]\nwhile len(a) < {index}:\n    a.append(a[-1] + a[-2])\nprint(a[-1])",
    ]
    statement = f"Start {first}, {second}; add the last two. Term {index}?"
    return Draft(statement=statement, answer=str(b), programs=(rng.choice(programs),))


SEQUENCES = (
    Family(name="range_sum", draw=draw_range_sum, skill=0.4, slips=((r" \+ 1\)", ")"), (r"n \*\*? [n3]", "n"))),
    Family(name="multiples", draw=draw_multiples, skill=0.35, slips=((r"%", "//"), (r"// (\d+) -", r"// \1 +"))),
    Family(name="conditions", draw=draw_conditions, skill=0.1, slips=((r" and ", " or "), (r"if n % \d+: ", ""))),
    Family(name="repeat", draw=draw_repeat, skill=0.3, slips=((r"x \* (\d)", r"x + \1"), (r"\+ (\d\d)", r"- \1"))),
    Family(name="recurrence", draw=draw_recurrence, skill=0.25, slips=((r" - 2\)", ")"), (r"< (\d+)", r"<= \1"))),
)
