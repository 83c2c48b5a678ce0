"""Intervals, tests and numbers of seeds: scipy and statsmodels applied to a handful of runs, degenerate ones included.

A seed is the unit. What a study measured comes as an array with a value for each seed, of shape (seeds,), or with a row
for each seed, of shape (seeds, settings): runs of one seed share problems and first weights in all settings, so that
what is resampled or flipped are whole rows. docs/STATISTICS.md gives reasons and references.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHA = 0.05
"""Chance of calling arms different that are not: of one interval, and, after Holm, of all comparisons of a table."""
POWER = 0.8
"""Chance that a study with the seeds said to be needed shows a difference as large as the observed one."""
MIN_RUNS = 5
"""Seeds below which no interval is given: from the lowest to the highest of four is at best an interval of 87.5%."""
MAX_SEEDS = 1000
"""Seeds needed are counted up to here; one more stands for all numbers beyond."""
NUM_RESAMPLES = 9999
"""Resamples of a bootstrap; also sign flips of a test, of which up to 13 pairs have fewer: then all are tried."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95% interval, which is infinite where the runs cannot bound the figure."""

    value: float
    low: float = -inf
    high: float = inf

    @property
    def has_interval(self) -> bool:
        """Whether the runs bound the figure."""
        return isfinite(self.low) and isfinite(self.high)

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def estimate(values: Floats, statistic: Callable[..., Any]) -> Estimate:
    """A statistic with its expanded percentile interval (Hesterberg, arXiv 1411.5279, section 4.3).

    Resamples seeds. The percentile interval of few is too narrow, because a resample varies by (n - 1) / n of the
    variance and has normal tails; taking percentiles further out, by as much as the interval of Student's t is wider
    than that, mends both.

    Args:
        values: One for each seed, or a row of settings for each; at least one seed.
        statistic: `statistic(*columns, axis=-1)`, vectorised as scipy.stats.bootstrap asks; a column is a setting.

    Returns:
        Without interval where the seeds are too few, or do not vary, as of two arms that are the same.
    """
    from scipy import stats

    columns = list(np.atleast_2d(values.T))
    value = float(statistic(*columns, axis=-1))
    if not _can_bound(values):
        return Estimate(value=value)
    count = len(values)
    tail = stats.norm.cdf(stats.t.ppf(ALPHA / 2, count - 1) * sqrt(count / (count - 1)))
    bounds = stats.bootstrap(
        columns,
        statistic,
        n_resamples=NUM_RESAMPLES,
        confidence_level=float(1 - 2 * tail),
        method="percentile",
        vectorized=True,
        paired=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value=value, low=float(bounds.low), high=float(bounds.high))


def interquartile_mean(*columns: Floats, axis: int = -1) -> Floats:
    """Mean of the middle half of all values together (scipy cuts whole values: of five, one at each end)."""
    from scipy.stats import trim_mean

    return trim_mean(np.concatenate(columns, axis=axis), 0.25, axis=axis)


def probability_of_improvement(arm: Floats, baseline: Floats) -> Estimate:
    """P(a run of the arm > a run of the baseline), ties half: Mann-Whitney U / (n m), averaged over the settings.

    The interval is Wilson's for as many trials as there are seeds: the variance of U / (n m) is at most that of a
    share of min(n, m) trials (van Dantzig 1951), and that of a mean over settings at most the largest of theirs. So it
    errs towards width, and stays open where one arm wins always, which a bootstrap would call certain. Too few seeds
    have none here either.
    """
    from scipy.stats import mannwhitneyu
    from statsmodels.stats.proportion import proportion_confint

    trials = min(len(arm), len(baseline))
    value = float(np.mean(mannwhitneyu(arm, baseline, axis=0).statistic / (len(arm) * len(baseline))))
    if trials < MIN_RUNS:
        return Estimate(value=value)
    bounds: Any = proportion_confint(value * trials, trials, alpha=ALPHA, method="wilson")
    return Estimate(value=value, low=float(bounds[0]), high=float(bounds[1]))


def p_value(differences: Floats) -> float:
    """Two-sided exact paired permutation test of no difference: the sign of each seed's is as likely either way."""
    from scipy.stats import permutation_test

    if len(differences) < 2 or not differences.any():
        return 1.0
    result = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values such that the chance of any one <= `ALPHA` without a difference behind it is at most `ALPHA`."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return []
    _, corrected, *_ = multipletests(p_values, method="holm")
    return np.asarray(corrected).tolist()


def smallest_p(num_seeds: int, num_comparisons: int) -> float:
    """The smallest corrected p-value there can be: two of the 2^n ways to set the signs are the most extreme."""
    return min(1.0, num_comparisons * 2 / min(2**num_seeds, NUM_RESAMPLES + 1))


def seeds_needed(differences: Floats, num_comparisons: int) -> int | None:
    """Seeds with which a difference as observed, with the spread as observed, would be shown with chance `POWER`.

    Power of a paired t-test at the level that the exact test can reach and that Holm asks of the smallest p-value.
    None where the spread is not known; `MAX_SEEDS` + 1 for more than that.
    """
    if not _can_bound(differences):
        return None
    effect = abs(float(differences.mean())) / spread([differences])
    counts = [count for count in range(MIN_RUNS, MAX_SEEDS + 1) if _level(count, num_comparisons)]
    place = bisect_left(counts, POWER, key=lambda count: _power(effect, count, num_comparisons))
    return counts[place] if place < len(counts) else MAX_SEEDS + 1


def detectable(differences: Floats, num_comparisons: int) -> float | None:
    """The difference that as many seeds with such a spread show with chance `POWER`; None where none can be."""
    from statsmodels.stats.power import TTestPower

    count = len(differences)
    if not _can_bound(differences) or not (level := _level(count, num_comparisons)):
        return None
    return float(TTestPower().solve_power(nobs=count, alpha=level, power=POWER) * spread([differences]))


def spread(cells: Sequence[Floats]) -> float:
    """Standard deviation within the cells, each of which may have a mean of its own."""
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in cells)
    return sqrt(squares / (sum(map(len, cells)) - len(cells)))


def _level(num_seeds: int, num_comparisons: int) -> float:
    """The largest p-value of the exact test that Holm lets pass when it is the smallest; 0 where there is none."""
    step = smallest_p(num_seeds, 1)
    return ALPHA / num_comparisons // step * step


def _power(effect: float, num_seeds: int, num_comparisons: int) -> float:
    from statsmodels.stats.power import TTestPower

    return float(TTestPower().power(effect, num_seeds, _level(num_seeds, num_comparisons)))


def _can_bound(values: Floats) -> bool:
    """Whether there are enough seeds to say how they vary, and they do."""
    return len(values) >= MIN_RUNS and bool((np.ptp(values, axis=0) > 1e-12).any())
