"""Means over questions with their intervals, for questions that are each answered several times.

Samples of one question resemble each other, so the question is the unit: a mean is that of the questions' own means,
and its standard error comes from how they spread ("clustered", arXiv 2411.00640). What the spread of few questions
cannot show, such as the hard ones among thirty that were all answered right, two imagined questions stand for: one
that is always right and one that is always wrong join the interval's sample, not the mean (Agresti and Caffo, The
American Statistician 54, 2000).
"""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, variance

from turnwise.tracker.evaluations import Difference, Share

CONFIDENCE = 0.95


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; 0 of fewer than two."""
    return sqrt(variance(values) / len(values)) if len(values) > 1 else 0.0


def share(values: Sequence[float]) -> Share:
    """The mean of one number in [0, 1] a question, with Student's interval of the sample with two imagined questions.

    Args:
        values: One number for each question, at least one.

    Raises:
        ValueError: There is no question, or a number outside of [0, 1].
    """
    if not values or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"values={values!r:.200}: expected one number or more, each in [0, 1]")
    mean = min(fmean(values), 1.0)
    low, high = _interval([*values, 0.0, 1.0], len(values))
    return Share(value=mean, low=min(max(low, 0.0), mean), high=max(min(high, 1.0), mean), num_problems=len(values))


def ratio(sums: Sequence[float], counts: Sequence[int]) -> Share:
    """The share of all samples together, `sum(sums) / sum(counts)`, where questions have samples of unequal number.

    Its standard error is the linearised one of a ratio of two sums over questions; the two imagined questions have as
    many samples as the questions have on average.

    Args:
        sums: The numbers in [0, 1] of each question's samples, added up.
        counts: How many samples each question has; those of none are passed over.

    Raises:
        ValueError: No question has a sample.
    """
    rows = [(total, float(count)) for total, count in zip(sums, counts, strict=True) if count]
    if not rows:
        raise ValueError("no question has a sample")
    average = fmean(count for _, count in rows)
    mean = min(sum(total for total, _ in rows) / (average * len(rows)), 1.0)
    rows_and_two = [*rows, (0.0, average), (average, average)]
    middle = sum(total for total, _ in rows_and_two) / sum(count for _, count in rows_and_two)
    # Each question's part in the ratio: these have the mean `middle` and the spread of the linearised ratio.
    low, high = _interval([middle + (total - middle * count) / average for total, count in rows_and_two], len(rows))
    return Share(value=mean, low=min(max(low, 0.0), mean), high=max(min(high, 1.0), mean), num_problems=len(rows))


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Difference:
    """The mean of `values` less that of `others`, one pair a question, with Student's interval.

    The imagined questions are one that only the first side answers and one that only the other does, so that a sample
    in which nothing differs does not exclude that anything might.

    Raises:
        ValueError: There is no question, or one side has more than the other.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    if not differences:
        raise ValueError("no question is on both sides")
    mean = fmean(differences)
    low, high = _interval([*differences, 1.0, -1.0], len(differences))
    return Difference(
        value=mean, low=min(max(low, -1.0), mean), high=max(min(high, 1.0), mean), num_problems=len(differences)
    )


def _interval(values: Sequence[float], num_problems: int) -> tuple[float, float]:
    """Student's interval for the mean of `values`, of which `num_problems` are real."""
    if num_problems == 1:  # nothing is known of how questions differ
        return -1.0, 1.0
    from scipy.special import stdtrit  # scipy.stats would take a second to import

    margin = float(stdtrit(num_problems - 1, 1 - (1 - CONFIDENCE) / 2)) * standard_error(values)
    return fmean(values) - margin, fmean(values) + margin
