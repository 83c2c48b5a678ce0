"""Repeated n-grams, counted by hand."""

import pytest

from turnwise.core.repetition import repetition


@pytest.mark.parametrize(
    ("turns", "n", "expected"),
    [
        ([[1, 2, 3, 4, 5]], 4, 0.0),
        ([[1, 1, 1, 1, 1, 1]], 4, 2 / 3),  # three 4-grams, one distinct
        ([[1, 2, 1, 2, 1]], 2, 1 / 2),  # 12 21 12 21
        ([[1, 2, 3], [1, 2, 3]], 3, 1 / 2),  # a turn that says what an earlier one said
        ([[1, 2], [3, 4]], 4, 0.0),  # nothing reaches over the end of a turn
        ([], 4, 0.0),
    ],
)
def test_by_hand(turns, n, expected):
    assert repetition(turns, n) == pytest.approx(expected)


def test_the_field_s_four_is_the_default():
    assert repetition([[7, 7, 7, 7, 7]]) == repetition([[7, 7, 7, 7, 7]], 4) == pytest.approx(1 / 2)
