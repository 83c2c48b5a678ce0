"""Correlations by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnwise.core.correlation import average_ranks, correlation, rank_correlation

ROWS = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=40)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_correlation_by_hand():
    # x - 2 = -1, 0, 1 and y - 3 = -2, 1, 1: sum of products 2 + 0 + 1 = 3, squares 2 and 6, 3 / sqrt(12)
    assert correlation(row(1, 2, 3), row(1, 4, 4)) == pytest.approx(3 / math.sqrt(12))
    assert correlation(row(1, 2, 3), row(5, 3, 1)) == pytest.approx(-1)


def test_ties_share_the_mean_of_their_ranks():
    # In order: 1, 3, 3, 3, 8, 8 with ranks 1, (2 + 3 + 4) / 3, (5 + 6) / 2
    assert average_ranks(row(3, 8, 1, 3, 8, 3)).tolist() == [3, 5.5, 1, 3, 5.5, 3]
    assert average_ranks(row()).tolist() == []


def test_rank_correlation_by_hand():
    # Ranks 1, 2, 3, 4 and 1.5, 1.5, 4, 3; less 2.5: -1.5, -.5, .5, 1.5 and -1, -1, 1.5, .5
    # products 1.5 + .5 + .75 + .75 = 3.5, squares 5 and 1 + 1 + 2.25 + .25 = 4.5
    assert rank_correlation(row(-9, 0, 1, 100), row(2, 2, 50, 3)) == pytest.approx(3.5 / math.sqrt(5 * 4.5))


@pytest.mark.parametrize("other", [row(5, 5, 5), row(0.1 + 0.2, 0.3, 0.3)])
def test_a_row_that_does_not_vary_has_no_correlation(other: torch.Tensor):
    assert math.isnan(correlation(row(1, 2, 3), other))
    assert math.isnan(correlation(other, row(1, 2, 3)))


def test_one_number_or_none_has_no_correlation():
    assert math.isnan(correlation(row(1), row(2)))
    assert math.isnan(rank_correlation(row(), row()))


@given(ROWS)
def test_order_alone_counts_for_ranks(pairs: list[tuple[int, int]]):
    x, y = (row(*values) for values in zip(*pairs, strict=True))
    expected = rank_correlation(x, y)
    assert rank_correlation(x.pow(3), 2 * y + 7) == pytest.approx(expected, nan_ok=True)
    assert math.isnan(expected) or -1 <= expected <= 1


@given(ROWS)
def test_a_row_goes_with_itself_exactly(pairs: list[tuple[int, int]]):
    x = row(*(first for first, _ in pairs)) / 3
    if len(set(x.tolist())) > 1:
        assert correlation(x, x) == 1
        assert rank_correlation(x, x) == 1


def test_rows_of_two_lengths_are_refused():
    with pytest.raises(ValueError, match=r"x_N of shape \(2,\) and y_N of shape \(3,\)"):
        correlation(row(1, 2), row(1, 2, 3))
