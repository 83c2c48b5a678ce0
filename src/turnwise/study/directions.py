"""Where the gradient of a step points, and how much of it is noise, estimated from independent steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan, sqrt

import torch
from torch import Tensor

from turnwise.study.estimates import ALPHA, Estimate

MIN_STEPS = 3
"""Steps below which nothing can be said: without one of them there must be two left to compare."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """The gradients that an arm makes of independent steps of one policy; each figure with its 95% interval."""

    arm: str
    signal: Estimate
    """Mean cosine between the gradients of two steps: the share of a step's squared length that is no noise."""
    step: Mapping[str, Estimate]
    """By goal: mean cosine between the gradient of a step and the expected gradient of the goal."""
    ahead: Mapping[str, Estimate]
    """By goal: that cosine minus the baseline's; empty for the baseline."""
    expectation: Mapping[str, Estimate]
    """By goal: cosine between the arm's expected step and the goal's gradient; NaN where the noise hides either."""


def directions(arms: Mapping[str, Tensor], goals: Mapping[str, Tensor]) -> list[Direction]:
    """How the gradients of arms lie to those of goals, free of what two gradients of one step have in common.

    With u_b the gradient of an arm at step b brought to length 1 (as an optimiser that adapts to the size of gradients
    does, more or less), h_b that of a goal as it is, and `<x, y>` the mean of `x_b . y_c` over b != c, which estimates
    `E x . E y` without bias where steps are independent,

        signal = <u, u>,  step = <u, h> / sqrt(<h, h>),  expectation = <u, h> / sqrt(<u, u> <h, h>)

    so that `step = expectation sqrt(signal)`: a step goes astray by its bias and by its noise. A gradient of zero goes
    nowhere and counts as 0. Ours [O]. All arms made their gradients of the same trajectories, so in the difference of
    two much of the noise cancels.

    Args:
        arms: Gradients by arm, the baseline first, `[B, D]`: one row for each step.
        goals: The same steps' gradients of each goal, `[B, D]`.

    Returns:
        Figures with intervals by the jackknife over steps.

    Raises:
        ValueError: Shapes differ, or there are fewer than `MIN_STEPS` steps.
    """
    shape = next(iter(arms.values())).shape
    if len(shape) != 2 or shape[0] < MIN_STEPS:
        raise ValueError(f"gradients of shape {tuple(shape)}: expected {MIN_STEPS} rows or more")
    for name, rows_BD in (*arms.items(), *goals.items()):
        if rows_BD.shape != shape:
            raise ValueError(f"{name}: gradients of shape {tuple(rows_BD.shape)}, those of the baseline {tuple(shape)}")
    power = {goal: _products(goal_BD, goal_BD) for goal, goal_BD in goals.items()}
    found = []
    blocks: dict[str, Tensor] = {}  # of the baseline, by goal
    for arm, rows_BD in arms.items():
        units_BD = torch.nn.functional.normalize(rows_BD, dim=1)
        own_BB = _products(units_BD, units_BD)
        step: dict[str, Estimate] = {}
        ahead: dict[str, Estimate] = {}
        expectation: dict[str, Estimate] = {}
        for goal, goal_BD in goals.items():
            products_3BB = torch.stack([own_BB, _products(units_BD, goal_BD), power[goal]])
            step[goal] = _jackknife(_step_cosine, products_3BB)
            expectation[goal] = _jackknife(_expected_cosine, products_3BB)
            if goal in blocks:
                ahead[goal] = _jackknife(_step_difference, torch.cat([products_3BB, blocks[goal]]))
            blocks.setdefault(goal, products_3BB)
        signal = _jackknife(_signal, own_BB[None])
        found.append(Direction(arm=arm, signal=signal, step=step, ahead=ahead, expectation=expectation))
    return found


def _products(left_BD: Tensor, right_BD: Tensor) -> Tensor:
    """Inner products of every step of one with every step of the other, float64 `[B, B]`."""
    return (left_BD @ right_BD.T).double()


def _signal(products_1BB: Tensor) -> float:
    return _across_steps(products_1BB[0])


def _step_cosine(products_3BB: Tensor) -> float:
    _, cross, goal = products_3BB
    power = _across_steps(goal)
    return _across_steps(cross) / sqrt(power) if power > 0 else nan


def _step_difference(products_6BB: Tensor) -> float:
    return _step_cosine(products_6BB[:3]) - _step_cosine(products_6BB[3:])


def _expected_cosine(products_3BB: Tensor) -> float:
    own, cross, goal = (_across_steps(products_BB) for products_BB in products_3BB)
    return cross / sqrt(own * goal) if min(own, goal) > 0 else nan


def _across_steps(products_BB: Tensor) -> float:
    """Mean over pairs of different steps."""
    count = len(products_BB)
    return float(products_BB.sum() - products_BB.diagonal().sum()) / (count * (count - 1))


def _jackknife(figure: Callable[[Tensor], float], products_XBB: Tensor) -> Estimate:
    """A figure of all steps; its interval by Student's t from how it changes when each step in turn is left out."""
    from scipy.stats import t

    count = products_XBB.shape[-1]
    value = figure(products_XBB)
    kept = [[place for place in range(count) if place != left_out] for left_out in range(count)]
    without = torch.tensor([figure(products_XBB[:, rows][:, :, rows]) for rows in kept], dtype=torch.float64)
    if not bool(torch.isfinite(without).all()):
        return Estimate(value=value)
    error = sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    half = float(t.ppf(1 - ALPHA / 2, count - 1)) * error
    return Estimate(value=value, low=value - half, high=value + half)
