import math

import pytest
import torch
from torch import Tensor

from turnwise.core.ratios import MAX_LOG_RATIO, RatioLevel, bounded, clipped_surrogate, dual_clipped, importance_ratio

LOG_RATIO = [0.2, 0.4, -0.3, 0.1]
TURN, SEQUENCE = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 0, 1])


def ratios(level: RatioLevel, log_ratio: Tensor) -> Tensor:
    return importance_ratio(log_ratio, TURN, SEQUENCE, level)


@pytest.mark.parametrize(
    ("level", "exponents"),
    [
        (RatioLevel.token, LOG_RATIO),
        (RatioLevel.turn, [0.3, 0.3, -0.3, 0.1]),  # (0.2 + 0.4) / 2
        (RatioLevel.sequence, [0.1, 0.1, 0.1, 0.1]),  # (0.2 + 0.4 - 0.3) / 3
    ],
)
def test_ratio_is_the_geometric_mean_of_its_segment(level: RatioLevel, exponents: list[float]):
    result = ratios(level, torch.tensor(LOG_RATIO, dtype=torch.float64))
    assert result.tolist() == pytest.approx([math.exp(x) for x in exponents])


@pytest.mark.parametrize("level", list(RatioLevel))
def test_gradient_of_a_tokens_ratio_stays_with_the_token(level: RatioLevel):
    log_ratio = torch.tensor(LOG_RATIO, dtype=torch.float64, requires_grad=True)
    result = ratios(level, log_ratio)
    (grad,) = torch.autograd.grad(result[0], log_ratio)
    assert grad.tolist() == pytest.approx([result[0].item(), 0, 0, 0])


@pytest.mark.parametrize(("level", "segment"), [(RatioLevel.turn, TURN), (RatioLevel.sequence, SEQUENCE)])
def test_gradient_over_a_segment_is_that_of_the_geometric_mean(level: RatioLevel, segment: Tensor):
    log_ratio = torch.tensor(LOG_RATIO, dtype=torch.float64, requires_grad=True)
    (actual,) = torch.autograd.grad(ratios(level, log_ratio)[segment == 0].mean(), log_ratio)
    (expected,) = torch.autograd.grad(log_ratio[segment == 0].mean().exp(), log_ratio)
    assert actual.tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_log_ratios_stay_finite_with_their_gradient(extreme: float):
    log_ratio = torch.tensor([extreme], requires_grad=True)
    index = torch.tensor([0])
    ratio = importance_ratio(log_ratio, index, index, RatioLevel.token)
    assert ratio.item() == pytest.approx(math.exp(math.copysign(20, extreme)))
    for advantage in (1.0, 0.0, -1.0):
        surrogate, _ = clipped_surrogate(ratio, torch.tensor([advantage]), 0.2, 0.2)
        (grad,) = torch.autograd.grad(surrogate.sum(), log_ratio, retain_graph=True)
        assert torch.isfinite(surrogate).all()
        assert torch.isfinite(grad).all()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"expected one shape, got \[\(2,\), \(4,\), \(4,\)\]"):
        ratios(RatioLevel.token, torch.zeros(2))


def test_clipping_is_pessimistic_and_asymmetric():
    ratio = torch.tensor([0.5, 0.85, 1.25, 1.5, 0.5, 0.85, 1.25, 1.5], dtype=torch.float64)
    advantage = torch.tensor([2.0] * 4 + [-2.0] * 4, dtype=torch.float64)
    surrogate, is_clipped = clipped_surrogate(ratio, advantage, 0.2, 0.28)
    # A = 2: min(w * 2, clip(w, .8, 1.28) * 2);  A = -2: min(-2w, -2 clip(w)) keeps w above the range, clips below it
    assert surrogate.tolist() == pytest.approx([1.0, 1.7, 2.5, 2.56, -1.6, -1.7, -2.5, -3.0])
    assert is_clipped.tolist() == [False, False, False, True, True, False, False, False]


def test_clipped_tokens_have_no_gradient():
    ratio = torch.tensor([1.5, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    surrogate, _ = clipped_surrogate(ratio, torch.tensor([1.0, -1.0, 3.0], dtype=torch.float64), 0.2, 0.2)
    (grad,) = torch.autograd.grad(surrogate.sum(), ratio)
    assert grad.tolist() == [0, 0, 3]


def test_the_dual_clip_bounds_what_a_negative_advantage_can_cost():
    # A = -2 at ratios 1.5, 3, 10, bound 3: max(-2 w, -6) = -3, -6, -6. A = 2 clips at 1.2, A = 0 stays 0.
    ratio = torch.tensor([1.5, 3.0, 10.0, 10.0, 10.0], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([-2.0, -2.0, -2.0, 2.0, 0.0], dtype=torch.float64)
    surrogate, _ = clipped_surrogate(ratio, advantage, 0.2, 0.2)
    bounded_surrogate, is_bounded = dual_clipped(surrogate, advantage, 3.0)
    assert bounded_surrogate.tolist() == pytest.approx([-3, -6, -6, 2.4, 0])
    assert is_bounded.tolist() == [False, False, True, False, False]
    (grad,) = torch.autograd.grad(bounded_surrogate.sum(), ratio)
    assert grad[[0, 2, 3, 4]].tolist() == [-2, 0, 0, 0]  # at the edge, ratio 3, either side's gradient is right


def test_an_infinite_dual_clip_changes_nothing_not_even_where_the_advantage_is_zero():
    surrogate, advantage = torch.tensor([-1e30, 0.0, 2.0]), torch.tensor([-1.0, 0.0, 1.0])
    same, is_bounded = dual_clipped(surrogate, advantage, math.inf)
    assert same.tolist() == surrogate.tolist()
    assert not is_bounded.any()


def test_a_bound_on_the_value_leaves_the_gradient():
    log_ratio = torch.tensor([-1e6, -0.1, 0.0, 1e6], requires_grad=True)
    held = bounded(log_ratio)
    assert held.tolist() == pytest.approx([-MAX_LOG_RATIO, -0.1, 0, MAX_LOG_RATIO])
    (grad,) = torch.autograd.grad(held.sum(), log_ratio)
    assert grad.tolist() == [1, 1, 1, 1]
