"""The answer that most samples of a question agree on (majority@k, self-consistency, arXiv 2203.11171)."""

from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import fmean

from turnwise.reward.answers import vote_key

RIGHT = ("right",)
"""The vote of every right answer: however they are written, they are equal to the gold answer."""


def vote(answer: str | None, is_correct: bool) -> Hashable | None:
    """What a sample votes for: equal votes are equal answers; None, no vote, without an answer.

    Wrong answers are equal where text, units, names in front or plain numbers show it (`vote_key`).
    """
    if is_correct:
        return RIGHT
    return None if answer is None else vote_key(answer)


def majority(votes: Sequence[Hashable | None]) -> float:
    """Whether the most frequent vote is the right one, in [0, 1]: a tie is broken by lot; 0 where nobody votes."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [vote for vote, count in counts.items() if count == most]
    return (RIGHT in winners) / len(winners)


def majority_at_k(votes: Sequence[Hashable | None], k: int) -> float:
    """The expected `majority` of k samples: its mean over the disjoint blocks of k in their order, hence unbiased.

    Raises:
        ValueError: There are fewer than k samples.
    """
    if not 1 <= k <= len(votes):
        raise ValueError(f"k={k}: expected 1 to the {len(votes)} samples of a question")
    return fmean(majority(votes[start : start + k]) for start in range(0, len(votes) - k + 1, k))
