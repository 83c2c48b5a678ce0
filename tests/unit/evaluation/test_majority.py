"""The vote of several samples: ties, missing answers, spellings, and its expectation over blocks."""

from itertools import permutations
from statistics import fmean

import pytest

from turnwise.evaluation.majority import RIGHT, majority, majority_at_k, vote


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([RIGHT, RIGHT, "7"], 1.0),
        ([RIGHT, "7", "7"], 0.0),
        ([RIGHT, "7"], 0.5),
        ([RIGHT, "7", "8"], 1 / 3),
        ([None, None, RIGHT], 1.0),
        ([None, None], 0.0),
        (["7", "7", "8", "8"], 0.0),
    ],
)
def test_most_votes_win_ties_are_shared_and_no_answer_is_no_vote(votes, expected):
    assert majority(votes) == pytest.approx(expected)


def test_wrong_answers_agree_whatever_their_spelling():
    assert vote("1,000", False) == vote(" 1000. ", False) == vote(r"$1000$", False) == vote("1e3", False)
    assert vote(r"\boxed{Blue}", False) == vote("blue", False)
    assert vote("0.5", False) == vote(r"\frac{1}{2}", False)
    assert vote("50%", False) != vote("50", False)
    five = ["5", "x = 5", "5 apples", r"5\text{ cm}", "The answer is 5", "5.0"]
    assert len({vote(answer, False) for answer in five}) == 1
    assert vote("x+1", False) != vote("x+2", False)


def test_right_answers_agree_and_a_missing_one_has_no_vote():
    assert vote("2/4", True) == vote("one half", True) == RIGHT
    assert vote(None, False) is None
    assert vote("right", False) != RIGHT


def test_blocks_of_k():
    # (right, right, 7), (7, 7, right); the seventh fills no block
    assert majority_at_k([RIGHT, RIGHT, "7", "7", "7", RIGHT, RIGHT], 3) == 0.5
    assert majority_at_k([RIGHT, "7"], 1) == 0.5


def test_the_mean_over_blocks_is_unbiased():
    """Over all orders of five samples, blocks of two come to the mean over all pairs."""
    samples = [RIGHT, RIGHT, "7", None, "8"]
    orders = list(permutations(samples))
    pairs = list(permutations(samples, 2))
    assert fmean(majority_at_k(order, 2) for order in orders) == pytest.approx(fmean(map(majority, pairs)))


@pytest.mark.parametrize("k", [0, 3])
def test_k_beyond_the_samples_is_refused(k):
    with pytest.raises(ValueError, match=f"k={k}"):
        majority_at_k([RIGHT, "7"], k)
