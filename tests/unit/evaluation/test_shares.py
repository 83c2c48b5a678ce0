"""Intervals of means over questions: by hand, at their ends, and how often they hold the truth."""

from math import sqrt
from random import Random

import pytest

from turnwise.evaluation.shares import paired_difference, ratio, share, standard_error


def test_one_sample_a_question_is_wilson_with_one_degree_of_freedom_less():
    # p = 1/2 of 10: s^2 = (10/9)(1/4)/10 = 1/36, n = (1/4) / (1/36) = 9; Student's quantile with 9 degrees is 2.2622.
    # Wilson: middle 1/2; half = z / (1 + z^2/n) * sqrt(1/4/n + z^2/(4 n^2)) = z / (2 sqrt(n + z^2))
    found = share([1.0] * 5 + [0.0] * 5)
    z = 2.262157
    assert found.value == 0.5
    assert found.high - 0.5 == pytest.approx(z / (2 * sqrt(9 + z * z)), rel=1e-5)
    assert 0.5 - found.low == pytest.approx(found.high - 0.5)
    assert found.num_problems == 10


def test_all_right_leaves_room_below_and_none_above():
    # nothing spreads, so n = 30: low = 1 / (1 + z^2/n) with z = 2.04523
    found = share([1.0] * 30)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 / (1 + 2.04523**2 / 30), rel=1e-5)
    mirrored = share([0.0] * 30)
    assert (mirrored.low, mirrored.high) == (0.0, pytest.approx(1 - found.low))


def test_equal_samples_of_a_question_tell_no_more_than_one():
    once = share([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert share([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], max_sample_size=96) == once


def test_questions_that_resemble_each_other_narrow_the_interval_as_far_as_there_are_samples():
    even = [0.5, 0.5, 0.5, 0.5, 0.5, 0.625]
    wide, narrow = share(even, max_sample_size=6), share(even, max_sample_size=48)
    assert narrow.high - narrow.low < wide.high - wide.low


def test_one_question_says_nothing_of_others():
    found = share([1.0])
    assert (found.value, found.low, found.high) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("values", [[], [1.5], [-0.1, 0.3]])
def test_what_is_no_share_is_refused(values):
    with pytest.raises(ValueError, match=r"each in \[0, 1\]"):
        share(values)


@pytest.mark.parametrize(
    ("num_problems", "num_samples", "alpha", "beta"),
    [(30, 1, 1, 1), (30, 16, 0.3, 2), (100, 8, 0.5, 0.5), (8, 4, 1, 1), (30, 16, 50, 50), (200, 1, 1, 9)],
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(num_problems, num_samples, alpha, beta):
    """Questions of difficulty Beta(alpha, beta), answered independently; 600 studies: 95% give or take 1.8."""
    rng = Random(1)
    held = held_by_ratio = 0
    for _ in range(600):
        rights = [
            sum(rng.random() < chance for _ in range(num_samples))
            for chance in [rng.betavariate(alpha, beta) for _ in range(num_problems)]
        ]
        total = num_problems * num_samples
        found = share([right / num_samples for right in rights], max_sample_size=total)
        held += found.low <= alpha / (alpha + beta) <= found.high
        found = ratio(rights, [num_samples] * num_problems)
        held_by_ratio += found.low <= alpha / (alpha + beta) <= found.high
    assert 0.92 <= held / 600 <= 0.985
    assert 0.92 <= held_by_ratio / 600 <= 0.985


def test_ratio_of_unequal_numbers_of_samples():
    # 3 right of 5 samples together, though the questions' own means are 1 and 1/3
    found = ratio([2, 0, 1], [2, 0, 3])
    assert found.value == pytest.approx(0.6)
    assert found.num_problems == 2
    with pytest.raises(ValueError, match="no question has a sample"):
        ratio([0, 0], [0, 0])


def test_ratio_of_equal_numbers_is_the_mean():
    assert ratio([1, 0, 2, 1], [2, 2, 2, 2]).value == share([0.5, 0, 1, 0.5]).value


def test_paired_difference_by_hand():
    # differences 1, 0, 1, 0: mean 1/2, s = sqrt(1/3), standard error sqrt(1/12); quantile of 3 degrees 3.182446
    found = paired_difference([1, 1, 1, 0], [0, 1, 0, 0])
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 3.182446 * sqrt(1 / 12), rel=1e-5)
    assert found.high == pytest.approx(0.5 + 3.182446 * sqrt(1 / 12), rel=1e-5)


def test_pairing_takes_the_difficulty_of_the_questions_out():
    easy_and_hard = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    found = paired_difference(easy_and_hard, easy_and_hard)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_difference_of_one_question_or_none():
    assert (paired_difference([1.0], [0.0]).low, paired_difference([1.0], [0.0]).high) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="no question"):
        paired_difference([], [])
    with pytest.raises(ValueError):
        paired_difference([1.0], [])


def test_standard_error():
    assert standard_error([1.0, 0.0]) == pytest.approx(sqrt(0.5) / sqrt(2))
    assert standard_error([1.0]) == 0.0
