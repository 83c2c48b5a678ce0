"""How much of a text repeats itself: a policy that collapses often writes the same words again and again."""

from collections.abc import Sequence

NGRAM = 4
"""Tokens of the pieces that are compared."""


def repetition(turns: Sequence[Sequence[int]], n: int = NGRAM) -> float:
    """The share of n-grams that occurred before, `1 - distinct / all` ("seq-rep-n", arXiv 1908.04319, section 6.1).

    Args:
        turns: Tokens of each turn of one text; no n-gram reaches over the end of a turn.
        n: Tokens of an n-gram.

    Returns:
        In [0, 1); 0 where no turn has n tokens.
    """
    ngrams = [tuple(turn[start : start + n]) for turn in turns for start in range(len(turn) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
