"""How two rows of numbers go together: Pearson's correlation, and Spearman's of their ranks."""

from math import nan

import torch
from torch import Tensor

_ROUNDING = 1e-12
"""Spread, relative to `1 + |mean|`, below which numbers differ by rounding only."""


def correlation(x_N: Tensor, y_N: Tensor) -> float:
    """Pearson's coefficient: `sum (x - mean(x)) (y - mean(y)) / sqrt(sum (x - mean(x))^2 sum (y - mean(y))^2)`.

    Args:
        x_N: Finite numbers, any type.
        y_N: Finite numbers, any type.

    Returns:
        A number in [-1, 1], exactly 1 for equal rows that vary; NaN where a row does not vary.

    Raises:
        ValueError: The rows differ in shape or are not of rank 1.
    """
    if x_N.ndim != 1 or x_N.shape != y_N.shape:
        raise ValueError(
            f"x_N of shape {tuple(x_N.shape)} and y_N of shape {tuple(y_N.shape)}: expected one, of rank 1"
        )
    if x_N.numel() < 2:
        return nan
    x_N, y_N = x_N.double(), y_N.double()
    for row_N in (x_N, y_N):
        if float(row_N.std(correction=0)) <= _ROUNDING * (1 + abs(float(row_N.mean()))):
            return nan
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    ratio = (x_N @ y_N) / ((x_N @ x_N) * (y_N @ y_N)).sqrt()
    return float(ratio.clamp(-1, 1))


def rank_correlation(x_N: Tensor, y_N: Tensor) -> float:
    """Spearman's coefficient: Pearson's of the ranks; arguments, result and errors as in `correlation`."""
    return correlation(average_ranks(x_N), average_ranks(y_N))


def average_ranks(values_N: Tensor) -> Tensor:
    """Rank of each number from 1 up, equal numbers sharing the mean of their ranks: 7, 3, 7 get 2.5, 1, 2.5.

    Args:
        values_N: Finite numbers, any type.

    Returns:
        float64 `[N]`.
    """
    _, rank_N, counts = torch.unique(values_N, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[rank_N]
