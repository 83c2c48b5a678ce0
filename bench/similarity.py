"""Shaping of a group of 16 trajectories with about 2 KB of code each, by the lexical similarity."""

import builtins
import io
import keyword
import math
import tokenize
from collections import Counter
from random import Random
from statistics import fmean, median
from time import perf_counter

from turnwise.reward.shaping import shaping_bonus_G, shaping_peers_G
from turnwise.reward.similarity.lexical import LexicalSimilarity
from turnwise.types import FinishReason, StopReason, ToolCall, Trajectory, Turn

GROUP_SIZE = 16
NUM_CORRECT = 8
CODE_CHARACTERS = 2000
REPEATS = 15
BUILTINS = frozenset(dir(builtins))


def measure() -> dict[str, float]:
    """Seconds for a group whose code was never seen, for one that was, and how many times longer the plain way is."""
    cold, warm, plain = [], [], []
    for repeat in range(REPEATS):
        group = [trajectory(Random(f"{repeat} {sample}"), sample) for sample in range(GROUP_SIZE)]
        correct = [sample < NUM_CORRECT for sample in range(GROUP_SIZE)]
        cold.append(seconds(group, correct))
        warm.append(seconds(group, correct))
        started = perf_counter()
        expected = plain_bonus_G(group, correct)
        plain.append(perf_counter() - started)
        found = bonus_G(group, correct)
        assert all(math.isclose(one, other, abs_tol=1e-12) for one, other in zip(found, expected, strict=True))
    cold_s, warm_s = median(cold), median(warm)
    return {"first_s": cold_s, "again_s": warm_s, "plain_over_first": median(plain) / cold_s}


def seconds(group: list[Trajectory], correct: list[bool]) -> float:
    """Of one call."""
    started = perf_counter()
    bonus_G(group, correct)
    return perf_counter() - started


def bonus_G(group: list[Trajectory], correct: list[bool]) -> tuple[float, ...]:
    """As the rewards compute it."""
    return shaping_bonus_G(shaping_peers_G(group, correct, LexicalSimilarity()), 0.5)


def plain_bonus_G(group: list[Trajectory], correct: list[bool]) -> list[float]:
    """The bonus as one writes it down: every pair of programs is taken apart anew."""
    peers = [one.code for one, is_correct in zip(group, correct, strict=True) if is_correct]
    return [
        0.0 if is_correct else 0.5 * fmean(plain_similarity(one.code, peer, 3) for peer in peers)
        for one, is_correct in zip(group, correct, strict=True)
    ]


def plain_similarity(code: str, other: str, ngram: int) -> float:
    """The cosine of two programs that Python can read, by its own tokenizer and counters of tuples."""
    counts, other_counts = (plain_counts(text, ngram) for text in (code, other))
    dot = sum(count * other_counts[key] for key, count in counts.items())
    squares = [sum(count * count for count in one.values()) for one in (counts, other_counts)]
    return min(1.0, dot / math.sqrt(squares[0] * squares[1]))


def plain_counts(code: str, ngram: int) -> Counter[tuple[str, ...]]:
    """Counts of the n-grams of normalised tokens."""
    kept: list[str] = []
    numbers: dict[str, str] = {}
    imported: set[str] = set()
    previous, in_import = "\n", False
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        text = "\n" if token.type == tokenize.NEWLINE else token.string
        if token.type in (tokenize.NL, tokenize.COMMENT) or not (text == "\n" or text.strip()):
            continue
        if previous in ("\n", ";"):
            in_import = text in ("import", "from")
        previous, before = text, previous
        if token.type == tokenize.STRING:
            kept.append('""')
        elif text.isidentifier() and before != "." and not (keyword.iskeyword(text) or text in BUILTINS):
            if in_import:
                imported.add(text)
            kept.append(text if text in imported else numbers.setdefault(text, f"${len(numbers)}"))
        elif text not in ("\n", ";"):
            kept.append(text)
    starts = range(max(1, len(kept) - ngram + 1))
    return Counter(tuple(kept[start : start + ngram]) for start in starts)


def trajectory(random: Random, sample: int) -> Trajectory:
    """Four turns of code that add up to about `CODE_CHARACTERS`."""
    calls = tuple(ToolCall(code=program(random, CODE_CHARACTERS // 4)) for _ in range(4))
    turns = tuple(
        Turn(
            span=(3 + k, 4 + k),
            behaviour_logprobs=(-0.5,),
            text="",
            tool_calls=(call,),
            tool_result=None,
            finish_reason=FinishReason.stop,
            policy_version=0,
        )
        for k, call in enumerate(calls)
    )
    return Trajectory(
        problem_id="p",
        sample_index=sample,
        token_ids=(1,) * 8,
        turns=turns,
        stop_reason=StopReason.answered,
        answer="1",
    )


def program(random: Random, num_characters: int) -> str:
    """Assignments, loops and calls as a policy writes them."""
    names, lines = ["total", "n", "values", "step", "result"], ["import math"]
    while sum(map(len, lines)) + len(lines) < num_characters:
        a, b = random.sample(names, 2)
        lines += random.choice(
            [
                [f"{a} = {random.randrange(100)} * {b} + math.gcd({random.randrange(50)}, {b})"],
                [f"for {a} in range(1, {random.randrange(2, 40)}):", f"    {b} += {a} ** 2 % {random.randrange(3, 9)}"],
                [f"if {a} > {random.randrange(100)}:  # larger", f"    print('{a} is', {a})"],
                [f"{a} = [x * {random.randrange(9)} for x in range({b}) if x % 2 == 0]"],
            ]
        )
    return "\n".join(lines)
