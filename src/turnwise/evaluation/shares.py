"""Means over questions with their intervals, for questions that are each answered several times.

Samples of one question resemble each other, so the question is the unit: a mean is that of the questions' own means,
and its standard error comes from how they spread ("clustered", arXiv 2411.00640).
"""

from collections.abc import Sequence
from math import inf, sqrt
from statistics import fmean, variance

from scipy.stats import t

from turnwise.tracker.evaluations import Difference, Share

CONFIDENCE = 0.95


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; 0 of fewer than two."""
    return sqrt(variance(values) / len(values)) if len(values) > 1 else 0.0


def share(values: Sequence[float], *, max_sample_size: float = inf) -> Share:
    """The mean of one number in [0, 1] a question, with Wilson's interval for a sample of clusters.

    Wilson's interval for n independent answers stays in [0, 1] and is never empty, not even where every answer is
    right. n is here the effective sample size p (1 - p) / s^2, s the clustered standard error (Korn and Graubard,
    1998), and the number of questions where that is unknown; the quantile is Student's.

    Args:
        values: One number for each question, at least one.
        max_sample_size: Upper end of n, such as the number of all samples.

    Raises:
        ValueError: There is no question, or a number outside of [0, 1].
    """
    if not values or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"values={values!r:.200}: expected one number or more, each in [0, 1]")
    mean, error = min(fmean(values), 1.0), standard_error(values)
    return _wilson(mean, error, len(values), max_sample_size)


def ratio(sums: Sequence[float], counts: Sequence[int]) -> Share:
    """The share of all samples together, `sum(sums) / sum(counts)`, where questions have samples of unequal number.

    Its standard error is the linearised one of a ratio of two sums over questions.

    Args:
        sums: The numbers in [0, 1] of each question's samples, added up.
        counts: How many samples each question has; those of none are passed over.

    Raises:
        ValueError: No question has a sample.
    """
    rows = [(total, count) for total, count in zip(sums, counts, strict=True) if count]
    if not rows:
        raise ValueError("no question has a sample")
    num_samples, num_problems = sum(count for _, count in rows), len(rows)
    mean = sum(total for total, _ in rows) / num_samples
    residues = sum((total - mean * count) ** 2 for total, count in rows)
    error = sqrt(residues * num_problems / (num_problems - 1)) / num_samples if num_problems > 1 else 0.0
    return _wilson(min(mean, 1.0), error, num_problems, num_samples)


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Difference:
    """The mean of `values` less that of `others`, one pair a question, with Student's interval.

    Raises:
        ValueError: There is no question, or one side has more than the other.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    if not differences:
        raise ValueError("no question is on both sides")
    mean = fmean(differences)
    if len(differences) == 1:
        return Difference(value=mean, low=-1.0, high=1.0, num_problems=1)
    margin = _quantile(len(differences)) * standard_error(differences)
    return Difference(value=mean, low=mean - margin, high=mean + margin, num_problems=len(differences))


def _quantile(num_problems: int) -> float:
    return float(t.ppf(1 - (1 - CONFIDENCE) / 2, num_problems - 1))


def _wilson(mean: float, error: float, num_problems: int, max_sample_size: float) -> Share:
    if num_problems == 1:  # nothing is known of how questions differ
        return Share(value=mean, low=0.0, high=1.0, num_problems=1)
    size = mean * (1 - mean) / error**2 if error > 0 else float(num_problems)
    size = min(max(size, 1.0), max(max_sample_size, num_problems))
    z = _quantile(num_problems)
    middle = (mean + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * sqrt(mean * (1 - mean) / size + z * z / (4 * size * size))
    return Share(
        value=mean,
        low=min(max(0.0, middle - half), mean),
        high=max(min(1.0, middle + half), mean),
        num_problems=num_problems,
    )
