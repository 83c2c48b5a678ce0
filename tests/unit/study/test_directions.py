"""Directions of gradients: by hand, without the bias of one step's noise, and what cannot be said."""

from math import isnan, sqrt

import pytest
import torch
from torch import Tensor

from turnwise.study.directions import Direction, directions


def noisy(mean: Tensor, scale: float, num_steps: int, seed: int) -> Tensor:
    """Steps whose expectation is `mean`."""
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(num_steps, mean.numel(), generator=generator)


def direction(gradients: Tensor, goal: Tensor) -> Direction:
    """Of a single arm."""
    (found,) = directions({"arm": gradients}, {"goal": goal})
    assert not found.ahead
    return found


def test_three_steps_by_hand() -> None:
    # u: (1, 0), (0.6, 0.8), (0.6, -0.8). Pairs: 0.6, 0.6, 0.36 - 0.64 = -0.28: signal = 0.92 / 3.
    # h: (2, 0) always: <h, h> = 4; <u, h> = 2 (1 + 0.6 + 0.6) / 3 = 4.4 / 3: step = 2.2 / 3, the mean cosine.
    gradients = torch.tensor([[7.0, 0.0], [3.0, 4.0], [0.3, -0.4]])
    found = direction(gradients, torch.tensor([[2.0, 0.0]] * 3))
    assert found.signal.value == pytest.approx(0.92 / 3)
    assert found.step["goal"].value == pytest.approx(2.2 / 3)
    assert found.expectation["goal"].value == pytest.approx(2.2 / 3 / sqrt(0.92 / 3))


def test_the_length_of_a_gradient_does_not_count() -> None:
    goal = torch.tensor([[1.0, 1.0]] * 4)
    found = direction(goal * torch.tensor([[1.0], [9.0], [1.0], [100.0]]), goal)
    assert found.signal.value == pytest.approx(1)
    assert found.step["goal"].value == pytest.approx(1)
    # A step of no length goes nowhere: of 12 ordered pairs 6 are left, and 3 of 4 steps.
    found = direction(goal * torch.tensor([[1.0], [9.0], [1.0], [0.0]]), goal)
    assert found.signal.value == pytest.approx(1 / 2)
    assert found.step["goal"].value == pytest.approx(3 / 4)


def test_the_difference_from_the_baseline_by_hand() -> None:
    gradients, goal = torch.tensor([[7.0, 0.0], [3.0, 4.0], [0.3, -0.4]]), torch.tensor([[2.0, 0.0]] * 3)
    baseline, arm = directions({"baseline": goal, "arm": gradients}, {"goal": goal})
    assert (baseline.arm, baseline.ahead, arm.arm) == ("baseline", {}, "arm")
    assert arm.ahead["goal"].value == pytest.approx(2.2 / 3 - 1)  # as above, and 1 for the goal itself
    _, same = directions({"baseline": gradients, "same": gradients}, {"goal": goal})
    assert (same.ahead["goal"].value, same.ahead["goal"].low, same.ahead["goal"].high) == (0, 0, 0)


def test_noise_in_common_cancels_in_a_difference() -> None:
    goal = torch.tensor([1.0, 0.0, 0.0, 0.0])
    baseline = noisy(goal, 0.5, 24, seed=0)
    # Beside the noise of the baseline the arm has some of its own, in one direction.
    arm = baseline + torch.tensor([0.0, 0.0, 0.0, 1.0]) * noisy(torch.zeros(1), 0.8, 24, seed=1)
    first, second = directions({"baseline": baseline, "arm": arm}, {"goal": noisy(goal, 0.1, 24, seed=2)})
    apart, together = second.step["goal"], second.ahead["goal"]
    assert together.value == pytest.approx(apart.value - first.step["goal"].value)
    assert together.high - together.low < apart.high - apart.low
    assert together.high < 0


def test_without_noise_everything_is_certain() -> None:
    gradients, goal = torch.tensor([[3.0, 4.0]] * 4), torch.tensor([[4.0, 3.0]] * 4)
    found = direction(gradients, goal)
    for figure, value in ((found.signal, 1.0), (found.step["goal"], 0.96), (found.expectation["goal"], 0.96)):
        assert (figure.value, figure.low, figure.high) == pytest.approx((value, value, value))


def test_noise_in_common_does_not_look_like_agreement() -> None:
    # Arm and goal have orthogonal expectations and the very same noise, ten times as long as either.
    east, north = torch.eye(2, 400)
    noise = noisy(torch.zeros(400), 0.5, 60, seed=1)
    found = direction(east + noise, north + noise)
    naive = torch.nn.functional.cosine_similarity(east + noise, north + noise).mean()
    assert float(naive) > 0.9
    assert abs(found.step["goal"].value) < 0.1


def test_a_step_goes_astray_by_bias_and_by_noise() -> None:
    # In many dimensions the length of noise hardly varies: 1 of signal beside 1000 * 0.05^2 = 2.5 of noise.
    goal, arm = torch.zeros(1000), torch.zeros(1000)
    goal[0], arm[0], arm[1] = 1.0, 0.6, 0.8
    found = direction(noisy(arm, 0.05, 200, seed=0), noisy(goal, 0.01, 200, seed=1))
    assert found.signal.value == pytest.approx(1 / 3.5, abs=0.02)
    assert found.expectation["goal"].value == pytest.approx(0.6, abs=0.03)
    assert found.step["goal"].value == pytest.approx(0.6 * sqrt(1 / 3.5), abs=0.02)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    mean = torch.zeros(300)
    mean[0] = 1.0
    hits = 0
    for seed in range(100):
        found = direction(noisy(mean, 0.1, 12, seed), noisy(mean, 0.02, 12, seed + 1000))
        hits += found.step["goal"].low <= 1 / sqrt(4) <= found.step["goal"].high  # 300 * 0.01 = 3 of noise beside 1
    assert 88 <= hits <= 99


def test_what_noise_hides_is_not_a_number() -> None:
    # Steps that point away from one another: <g, g> = -1/3 of pairs, so there is no expectation to have a direction.
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    found = direction(gradients, torch.tensor([[1.0, 0.0]] * 4))
    assert found.signal.value == pytest.approx(-1 / 3)
    assert isnan(found.expectation["goal"].value)
    assert not found.expectation["goal"].has_interval


def test_an_arm_that_says_nothing_goes_nowhere() -> None:
    found = direction(torch.zeros(4, 2), torch.ones(4, 2))
    assert (found.signal.value, found.step["goal"].value) == (0, 0)
    assert isnan(found.expectation["goal"].value)


@pytest.mark.parametrize(
    ("gradients", "goal", "message"),
    [
        (torch.ones(2, 4), torch.ones(2, 4), r"gradients of shape \(2, 4\): expected 3 rows or more"),
        (torch.ones(4), torch.ones(4), r"gradients of shape \(4,\)"),
        (torch.ones(4, 2), torch.ones(4, 3), r"goal: gradients of shape \(4, 3\), those of the baseline \(4, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(gradients: Tensor, goal: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        direction(gradients, goal)
