"""Intervals of means over questions: by hand, at their ends, and how often they hold the truth."""

from math import sqrt
from random import Random

import pytest

from turnwise.evaluation.shares import paired_difference, ratio, share, standard_error


def test_one_sample_a_question_by_hand():
    # 5 right of 10, with the two imagined 6 of 12: mean 1/2, s^2 = 12/11 * 1/4 / 12 = 1/44; Student's quantile with
    # 9 degrees of freedom is 2.262157.
    found = share([1.0] * 5 + [0.0] * 5)
    assert found.value == 0.5
    assert found.high - 0.5 == pytest.approx(2.262157 / sqrt(44), rel=1e-6)
    assert 0.5 - found.low == pytest.approx(found.high - 0.5)
    assert found.num_problems == 10


def test_all_right_leaves_room_below_and_none_above():
    # 31 of 32 with the imagined ones: s^2 = 32/31 * 31/32 * 1/32 / 32 = 1/1024; the quantile of 29 degrees is 2.045230
    found = share([1.0] * 30)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(31 / 32 - 2.045230 / 32, rel=1e-6)
    mirrored = share([0.0] * 30)
    assert (mirrored.low, mirrored.high) == (0.0, pytest.approx(1 - found.low))


def test_one_right_sample_of_many_does_not_shrink_the_interval_of_none():
    none, one = share([0.0] * 30), share([1 / 64] + [0.0] * 29)
    assert one.high == pytest.approx(none.high, abs=0.001)


def test_equal_samples_of_a_question_tell_no_more_than_one():
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    narrow, wide = share([0.6] * 6), share(values)
    assert narrow.high - narrow.low < wide.high - wide.low, "questions that resemble each other narrow it"


def test_one_question_says_nothing_of_others():
    found = share([1.0])
    assert (found.value, found.low, found.high) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("values", [[], [1.5], [-0.1, 0.3]])
def test_what_is_no_share_is_refused(values):
    with pytest.raises(ValueError, match=r"each in \[0, 1\]"):
        share(values)


@pytest.mark.parametrize(
    ("num_problems", "num_samples", "alpha", "beta"),
    [
        (30, 1, 1, 1),
        (30, 16, 0.3, 2),
        (30, 64, 0.1, 2),
        (40, 16, 0.1, 2),
        (30, 64, 0.2, 0.02),
        (100, 8, 0.5, 0.5),
        (500, 4, 0.3, 0.3),
        (200, 1, 1, 9),
    ],
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(num_problems, num_samples, alpha, beta):
    """Questions of difficulty Beta(alpha, beta), answered independently; 600 studies: 95% give or take 1.8."""
    rng = Random(1)
    held = [0, 0]
    for _ in range(600):
        rights = [
            sum(rng.random() < chance for _ in range(num_samples))
            for chance in [rng.betavariate(alpha, beta) for _ in range(num_problems)]
        ]
        for counted, found in enumerate(
            [share([right / num_samples for right in rights]), ratio(rights, [num_samples] * num_problems)]
        ):
            held[counted] += found.low <= alpha / (alpha + beta) <= found.high
    assert min(held) / 600 >= 0.93


def test_few_hard_or_easy_problems_among_many_do_not_fool_them():
    """One problem in twenty is nearly always solved, the others nearly never: 0.9 and 0.002."""
    rng = Random(2)
    held = 0
    for _ in range(400):
        chances = [0.9 if rng.random() < 0.05 else 0.002 for _ in range(30)]
        found = share([sum(rng.random() < chance for _ in range(64)) / 64 for chance in chances])
        held += found.low <= 0.05 * 0.9 + 0.95 * 0.002 <= found.high
    assert held / 400 >= 0.93


def test_paired_differences_hold_the_truth():
    """One answer a side; the second side is right in one of twelve more problems."""
    rng = Random(3)
    held = 0
    for _ in range(600):
        pairs = [(rng.random() < 0.5, rng.random() < 1 / 6) for _ in range(60)]
        found = paired_difference([before or gained for before, gained in pairs], [before for before, _ in pairs])
        held += found.low <= 1 / 12 <= found.high
    assert held / 600 >= 0.93


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
    # differences 1, 0, 1, 0 and the imagined 1 and -1: mean 1/3, sum of squares about it 4 - 6/9 = 10/3, variance 2/3,
    # s^2 = 1/9; the quantile of 3 degrees is 3.182446, and 1/3 + 3.18/3 is beyond 1
    found = paired_difference([1, 1, 1, 0], [0, 1, 0, 0])
    assert found.value == 0.5
    assert found.low == pytest.approx(1 / 3 - 3.182446 / 3, rel=1e-6)
    assert found.high == 1.0


def test_pairing_takes_the_difficulty_of_the_questions_out():
    rng = Random(0)
    hard_and_easy = [float(rng.random() < 0.5) for _ in range(100)]
    found = paired_difference(hard_and_easy, hard_and_easy)
    spread = share(hard_and_easy)
    assert found.value == 0.0
    assert found.high - found.low < (spread.high - spread.low) / 3


def test_nothing_that_differs_is_no_proof_that_nothing_could():
    # the two imagined questions alone: s^2 = 2 / (151 * 152); about three in 150, as the rule of three has it
    found = paired_difference([1.0] * 150, [1.0] * 150)
    assert found.high == pytest.approx(1.976 * sqrt(2 / (151 * 152)), rel=1e-3)
    assert found.low == -found.high


def test_difference_of_one_question_or_none():
    assert (paired_difference([1.0], [0.0]).low, paired_difference([1.0], [0.0]).high) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="no question"):
        paired_difference([], [])
    with pytest.raises(ValueError):
        paired_difference([1.0], [])


def test_standard_error():
    assert standard_error([1.0, 0.0]) == pytest.approx(sqrt(0.5) / sqrt(2))
    assert standard_error([1.0]) == 0.0
