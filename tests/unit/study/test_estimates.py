import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from turnwise.study.estimates import (
    ALPHA,
    MAX_SEEDS,
    Estimate,
    detectable,
    estimate,
    holm,
    interquartile_mean,
    p_value,
    probability_of_improvement,
    seeds_needed,
    smallest_p,
    spread,
)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


SIX = array(0.0, 0.01, 0.02, 0.03, 0.04, 0.05)


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert interquartile_mean(array(9, 1, 2, 100, 3, -50, 4, 5)) == 3.5  # of 8, two at each end: (2 + 3 + 4 + 5) / 4
    assert interquartile_mean(array(1, 2, 3, 4, 90)) == 3.0  # of 5, one at each end
    assert interquartile_mean(array(1, 2, 6)) == 3.0  # of 3, none
    assert interquartile_mean(array(1, 2), array(3, 90)) == 2.5  # over settings: of all together


def test_interval_is_the_percentile_interval_further_out() -> None:
    found = estimate(SIX, np.mean)
    # n = 6: t(5) leaves 0.025 below -2.5706; times sqrt(6 / 5) that is -2.8159, below which the normal has 0.002432
    tail = stats.norm.cdf(-2.570582 * np.sqrt(6 / 5))
    assert tail == pytest.approx(0.002432, abs=1e-6)
    resamples = np.random.default_rng(1).choice(SIX, (200_000, 6)).mean(axis=1)
    assert found.value == pytest.approx(0.025)
    assert found.low == pytest.approx(np.quantile(resamples, tail), abs=0.0012)
    assert found.high == pytest.approx(np.quantile(resamples, 1 - tail), abs=0.0012)
    assert found.low < np.quantile(resamples, 0.025) - 0.002  # wider than the plain percentile interval


def test_interval_of_many_runs_is_that_of_student() -> None:
    values = np.random.default_rng(0).normal(size=400)
    student = stats.ttest_1samp(values, 0).confidence_interval()
    found = estimate(values, np.mean)
    assert (found.low, found.high) == pytest.approx((student.low, student.high), abs=0.01)


def test_the_same_runs_give_the_same_interval() -> None:
    assert estimate(SIX, interquartile_mean) == estimate(SIX, interquartile_mean)


def test_interval_moves_with_the_values() -> None:
    here, there = estimate(SIX, np.mean), estimate(SIX + 1, np.mean)
    assert (there.low, there.high) == pytest.approx((here.low + 1, here.high + 1))


def test_a_seed_is_resampled_with_all_its_settings() -> None:
    columns = np.column_stack([SIX, 0.1 - SIX])
    found = estimate(columns, lambda *parts, axis: np.mean(parts, axis=0).mean(axis=axis))
    assert (found.value, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))  # every row has the mean 0.05


def test_settings_that_differ_are_no_noise() -> None:
    found = estimate(np.column_stack([SIX, SIX + 10]), interquartile_mean)
    # 12 values, 3 cut at each end: (0.03 + 0.04 + 0.05 + 10 + 10.01 + 10.02) / 6
    assert found.value == pytest.approx(30.15 / 6)
    assert found.high - found.low < 0.06


def test_copies_of_a_setting_add_no_evidence() -> None:
    eight = np.linspace(-0.02, 0.05, 8)
    alone, copied = (estimate(values, interquartile_mean) for values in (eight, np.column_stack([eight] * 3)))
    # of 8 a quarter is 2, of 24 it is 6: the same values are cut
    assert (copied.value, copied.low, copied.high) == pytest.approx((alone.value, alone.low, alone.high))


@pytest.mark.parametrize(
    "values",
    [
        array(0.5),
        array(0.5, 0.7),
        array(0.1, 0.2, 0.3, 0.4),
        array(0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
        array(0.1, 0.1, 0.1, 0.1, 0.1) + 0.2,
    ],
)
def test_no_interval_where_seeds_are_too_few_or_do_not_vary(values: np.ndarray) -> None:
    found = estimate(values, np.mean)
    assert not found.has_interval
    assert not found.excludes_zero
    assert np.isfinite(found.value)
    assert seeds_needed(values, 1) is None
    assert detectable(values, 1) is None
    assert not estimate(np.column_stack([values, values + 1]), interquartile_mean).has_interval


def test_an_end_at_zero_does_not_exclude_it() -> None:
    assert not Estimate(value=1, low=0, high=2).excludes_zero
    assert Estimate(value=-1, low=-2, high=-1e-9).excludes_zero


def test_probability_of_improvement_counts_pairs_and_half_of_ties() -> None:
    found = probability_of_improvement(array(1, 2, 3), array(0, 2, 2))
    # 1 beats 0: 1; 2 beats 0 and ties twice: 2; 3 beats all: 3; of nine: 6 / 9
    assert found.value == pytest.approx(6 / 9)
    swapped = probability_of_improvement(array(0, 2, 2), array(1, 2, 3))
    assert (swapped.low, swapped.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_probability_of_improvement_over_settings_is_their_mean() -> None:
    found = probability_of_improvement(np.array([[2, 0], [2, 0]]), np.ones((2, 2)))
    assert found.value == 0.5  # 1 in one setting, 0 in the other


def test_probability_of_improvement_counts_seeds_not_settings() -> None:
    arm, baseline = np.arange(10.0).reshape(5, 2) + 10, np.arange(10.0).reshape(5, 2)
    assert probability_of_improvement(arm, baseline).low == pytest.approx(0.5655, abs=1e-4)  # Wilson with 5 of 5


@pytest.mark.parametrize(("num_seeds", "is_bounded"), [(1, False), (4, False), (5, True)])
def test_probability_of_improvement_of_few_seeds_has_no_interval(num_seeds: int, is_bounded: bool) -> None:
    values = np.linspace(0, 1, num_seeds)
    found = probability_of_improvement(values + 0.5, values)
    assert found.has_interval is is_bounded
    assert found.value > 0.5


def test_an_arm_that_always_wins_is_not_certain_to() -> None:
    found = probability_of_improvement(array(5, 6, 7, 8, 9), array(0, 1, 2, 3, 4))
    # Wilson with 5 of 5: the lower end is 5 / (5 + 1.96^2) = 0.5655
    assert (found.value, found.high) == (1.0, pytest.approx(1.0))
    assert found.low == pytest.approx(0.5655, abs=1e-4)


def test_p_value_counts_the_signs() -> None:
    assert p_value(array(1, 2, 3, 4, 5)) == 2 / 32  # as extreme: all signs as they are, or all turned
    assert p_value(array(-1, 2, 3, 4, 5)) == 4 / 32  # the sum is 13: itself, all positive, and the same turned
    assert p_value(array(1, -1)) == 1.0
    assert p_value(array(1, 2, 3, 4, 5) * 1e-9) == 2 / 32


def test_p_value_of_arms_that_are_the_same() -> None:
    assert p_value(array(0, 0, 0, 0, 0, 0)) == 1.0
    assert p_value(array(0.1)) == 1.0


def test_p_value_of_many_pairs_is_drawn_with_a_fixed_seed() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, size=30)
    assert p_value(values) == p_value(values)
    _, of_student = stats.ttest_1samp(values, 0)
    assert p_value(values) == pytest.approx(of_student, abs=0.01)
    assert p_value(np.abs(values)) == 2 / 10_000  # no pattern drawn is as extreme: (0 + 1) / (9999 + 1), twice


def test_smallest_p_is_the_one_that_the_test_gives() -> None:
    for count in (3, 6, 13, 14, 30):
        assert smallest_p(count, 1) == pytest.approx(p_value(np.linspace(1, 2, count)))
    assert smallest_p(5, 4) == 0.25  # 4 * 2 / 32
    assert smallest_p(2, 10) == 1.0


def test_holm_steps_down() -> None:
    # 0.01 * 4, 0.02 * 3, 0.03 * 2 raised to the one before it, 0.5 * 1
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([]) == []


def test_spread_is_within_the_settings() -> None:
    # squares about each mean: 2 and 8, freedom 4
    assert spread([array(1, 2, 3), array(10, 12, 14)]) == pytest.approx(np.sqrt(10 / 4))


def test_seeds_needed_have_the_power_of_the_paired_t_test() -> None:
    values = array(-1, 0, 1, 2, 3, 4, 5, 6)  # mean 2.5, deviation sqrt(6): effect 1.0206
    needed = seeds_needed(values, 1)
    assert needed is not None
    effect = 2.5 / np.sqrt(6)
    assert TTestPower().power(effect, needed, ALPHA) > 0.8 > TTestPower().power(effect, needed - 2, ALPHA)
    more = seeds_needed(values, 10)
    assert more is not None
    assert more > needed  # correction for more comparisons asks for more


def test_seeds_needed_are_never_fewer_than_the_test_can_use() -> None:
    values = array(1, 1.001, 0.999, 1, 1.002)
    assert seeds_needed(values, 1) == 6  # 2 / 2^6 = 0.031; 2 / 2^5 = 0.0625 is too large
    assert seeds_needed(values, 4) == 8  # 4 * 2 / 2^8 = 0.031


def test_an_effect_of_almost_nothing_needs_more_than_can_be_run() -> None:
    assert seeds_needed(array(-1, 1, -1, 1, 1e-6), 1) == MAX_SEEDS + 1
    assert seeds_needed(array(-1, 1, -2, 2, 0), 1) == MAX_SEEDS + 1


def test_more_comparisons_than_any_number_of_seeds_can_bear() -> None:
    assert (
        seeds_needed(array(1, 1.001, 0.999, 1, 1.002), 1000) == MAX_SEEDS + 1
    )  # smallest corrected p: 1000 * 2 / 9999


def test_detectable_is_what_these_seeds_have_power_for() -> None:
    values = np.linspace(-1, 1, 12)
    found = detectable(values, 2)
    assert found is not None
    effect = found / values.std(ddof=1)
    # the largest level below 0.05 / 2 in steps of 2 / 2^12: 51 of them
    assert TTestPower().power(effect, 12, 51 * 2 / 2**12) == pytest.approx(0.8, abs=1e-6)
    assert detectable(np.linspace(-1, 1, 5), 1) is None  # five can confirm nothing


def drawn(rng: np.random.Generator, num_seeds: int, num_settings: int, correlation: float) -> np.ndarray:
    """Normal values around zero, of deviation 1; those of one seed are correlated between the settings."""
    own = rng.normal(size=(num_seeds, num_settings))
    return np.sqrt(correlation) * rng.normal(size=(num_seeds, 1)) + np.sqrt(1 - correlation) * own


@pytest.mark.parametrize(
    ("num_seeds", "num_settings", "correlation", "least"),
    [(5, 1, 0.0, 0.88), (10, 1, 0.0, 0.90), (8, 3, 0.6, 0.90)],
)
@pytest.mark.parametrize("is_difference", [True, False])
def test_intervals_cover(
    num_seeds: int,
    num_settings: int,
    correlation: float,
    least: float,
    is_difference: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("turnwise.study.estimates.NUM_RESAMPLES", 999)
    rng = np.random.default_rng(0)
    studies = [drawn(rng, num_seeds, num_settings, correlation) for _ in range(200)]
    if is_difference:
        found = [estimate(values.mean(axis=1), np.mean) for values in studies]
    else:
        found = [estimate(values, interquartile_mean) for values in studies]
    # nominal 0.95; over 200 studies the standard error of a share near it is 0.015
    assert least <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.995


def test_probability_of_improvement_covers_where_a_bootstrap_does_not() -> None:
    rng = np.random.default_rng(0)
    shift = stats.norm.ppf(0.9) * np.sqrt(2)  # then an arm's run is above a baseline's with probability 0.9
    found = [probability_of_improvement(rng.normal(shift, 1, size=5), rng.normal(size=5)) for _ in range(400)]
    assert np.mean([one.low <= 0.9 <= one.high for one in found]) > 0.95


@pytest.mark.slow
def test_a_study_of_nothing_seldom_finds_something() -> None:
    rng = np.random.default_rng(0)
    alarms = [
        min(holm([p_value(differences) for differences in rng.normal(size=(4, 10)) - rng.normal(size=10)])) <= ALPHA
        for _ in range(300)
    ]
    # at most 0.05 expected, whatever the arms share with the baseline; 0.05 + 2.5 standard errors of 0.0126
    assert np.mean(alarms) <= 0.08


def test_seeds_needed_are_about_right() -> None:
    rng = np.random.default_rng(0)
    values = np.asarray(stats.zscore(rng.normal(size=10), ddof=1)) + 1.2  # effect 1.2
    needed = seeds_needed(values, 3)
    assert needed is not None
    shown = [p_value(rng.normal(1.2, 1, size=needed)) <= ALPHA / 3 for _ in range(120)]
    assert 0.65 < np.mean(shown) < 0.93
