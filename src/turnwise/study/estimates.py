"""Intervals, tests and numbers of seeds: scipy and statsmodels applied to a handful of runs, degenerate ones included.

Everything here takes strata: one array for each setting of a study, a number or pair for each run in it. What is
resampled or flipped stays within its setting. docs/STATISTICS.md gives reasons and references.
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
"""Runs below which no interval is given: from the lowest to the highest of four is at best an interval of 87.5%."""
MIN_RUNS_OF_SETTING = 3
"""The same for each of several settings, whose runs count together."""
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


def estimate(strata: Sequence[Floats], statistic: Callable[..., Any]) -> Estimate:
    """A statistic with its expanded percentile interval (Hesterberg, arXiv 1411.5279, section 4.3).

    Resamples runs within their setting. The percentile interval of few runs is too narrow, because a resample varies
    by (n - 1) / n of the variance and has normal tails; taking percentiles further out, by as much as the interval of
    Student's t is wider than that, mends both.

    Args:
        strata: Values of each setting, none of them empty.
        statistic: `statistic(*strata, axis=-1)`, vectorised as scipy.stats.bootstrap asks.

    Returns:
        Without interval where the runs are too few, or do not vary, as of two arms that are the same.
    """
    from scipy import stats

    value = float(statistic(*strata, axis=-1))
    if not _can_bound(strata):
        return Estimate(value=value)
    total = sum(map(len, strata))
    freedom = total - len(strata)
    tail = stats.norm.cdf(stats.t.ppf(ALPHA / 2, freedom) * sqrt(total / freedom))
    bounds = stats.bootstrap(
        strata,
        statistic,
        n_resamples=NUM_RESAMPLES,
        confidence_level=float(1 - 2 * tail),
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value=value, low=float(bounds.low), high=float(bounds.high))


def interquartile_mean(*strata: Floats, axis: int = -1) -> Floats:
    """Mean of the middle half of all values together (scipy cuts whole values: of five, one at each end)."""
    from scipy.stats import trim_mean

    return trim_mean(np.concatenate(strata, axis=axis), 0.25, axis=axis)


def mean_of_settings(*strata: Floats, axis: int = -1) -> Floats:
    """Every setting counts alike, however many of its runs are missing."""
    return np.mean([values.mean(axis=axis) for values in strata], axis=0)


def probability_of_improvement(arms: Sequence[Floats], baselines: Sequence[Floats]) -> Estimate:
    """P(a run of the arm > a run of the baseline), ties half: Mann-Whitney U / (n m), averaged over the settings.

    The interval is Wilson's for as many trials as there are pairs: the variance of U / (n m) is at most that of a
    share of min(n, m) trials (van Dantzig 1951). So it errs towards width, and stays open where one arm wins always,
    which a bootstrap would call certain.
    """
    from scipy.stats import mannwhitneyu
    from statsmodels.stats.proportion import proportion_confint

    shares = [
        float(mannwhitneyu(arm, baseline).statistic) / (len(arm) * len(baseline))
        for arm, baseline in zip(arms, baselines, strict=True)
    ]
    value, trials = float(np.mean(shares)), sum(min(len(a), len(b)) for a, b in zip(arms, baselines, strict=True))
    bounds: Any = proportion_confint(value * trials, trials, alpha=ALPHA, method="wilson")
    return Estimate(value=value, low=float(bounds[0]), high=float(bounds[1]))


def p_value(strata: Sequence[Floats]) -> float:
    """Two-sided exact paired permutation test of no difference: the sign of each difference is as likely either way."""
    from scipy.stats import permutation_test

    sizes = [len(values) for values in strata]
    weights = np.concatenate([np.full(size, 1 / (size * len(sizes))) for size in sizes])
    differences = np.concatenate(strata)
    if len(differences) < 2 or not differences.any():
        return 1.0
    result = permutation_test(
        (differences * weights,),
        lambda values, axis: values.sum(axis=axis),
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


def smallest_p(num_pairs: int, num_comparisons: int) -> float:
    """The smallest corrected p-value there can be: two of the 2^n ways to set the signs are the most extreme."""
    return min(1.0, num_comparisons * 2 / min(2**num_pairs, NUM_RESAMPLES + 1))


def seeds_needed(strata: Sequence[Floats], num_comparisons: int) -> int | None:
    """Seeds with which a difference as observed, with the spread as observed, would be shown with chance `POWER`.

    Power of a paired t-test at the level that the exact test can reach and that Holm asks of the smallest p-value.
    None where the spread is not known; `MAX_SEEDS` + 1 for more than that.
    """
    if not _can_bound(strata):
        return None
    effect = abs(float(mean_of_settings(*strata))) / spread(strata)
    counts = range(_least_seeds(len(strata), num_comparisons), MAX_SEEDS + 1)
    return counts[0] + bisect_left(
        counts, POWER, key=lambda count: _power(effect, count * len(strata), num_comparisons)
    )


def detectable(strata: Sequence[Floats], num_comparisons: int) -> float | None:
    """The difference that as many runs with such a spread show with chance `POWER`; None where none can be."""
    from statsmodels.stats.power import TTestPower

    count = sum(map(len, strata))
    if not _can_bound(strata) or not (level := _level(count, num_comparisons)):
        return None
    return float(TTestPower().solve_power(nobs=count, alpha=level, power=POWER) * spread(strata))


def _level(num_pairs: int, num_comparisons: int) -> float:
    """The largest p-value of the exact test that Holm lets pass when it is the smallest; 0 where there is none."""
    step = smallest_p(num_pairs, 1)
    return ALPHA / num_comparisons // step * step


def _least_seeds(num_settings: int, num_comparisons: int) -> int:
    return next(
        count for count in range(MIN_RUNS_OF_SETTING, MAX_SEEDS) if _level(count * num_settings, num_comparisons)
    )


def _power(effect: float, num_pairs: int, num_comparisons: int) -> float:
    from statsmodels.stats.power import TTestPower

    return float(TTestPower().power(effect, num_pairs, _level(num_pairs, num_comparisons)))


def spread(strata: Sequence[Floats]) -> float:
    """Standard deviation within the settings."""
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in strata)
    return sqrt(squares / (sum(map(len, strata)) - len(strata)))


def _can_bound(strata: Sequence[Floats]) -> bool:
    """Whether there are enough runs to say how they vary, and they do."""
    sizes = [len(values) for values in strata]
    is_enough = sum(sizes) >= MIN_RUNS and (len(sizes) == 1 or min(sizes) >= MIN_RUNS_OF_SETTING)
    return is_enough and any(np.ptp(values) > 1e-12 for values in strata)
