"""The terms that are switched on by a field of their own: correction, KL, entropy."""

import math
from dataclasses import replace

import pytest
import torch

from loss_batches import BATCH, gradient, moved, pack, shifted
from turnwise.core.correction import Correction
from turnwise.core.kl import KlEstimator
from turnwise.core.ratios import RatioLevel
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss

METRICS = {"loss/value", "loss/policy", "loss/clip_fraction"}


@pytest.mark.parametrize(
    ("correction", "level", "weights"),
    [
        (Correction.truncate, RatioLevel.token, [2, 0.5, 0.25]),
        (Correction.mask, RatioLevel.token, [0, 0.5, 0]),
        (Correction.truncate, RatioLevel.turn, [1.5, 1.5, 0.25]),  # 3 * 1/2
        (Correction.mask, RatioLevel.turn, [1.5, 1.5, 0]),
        (Correction.mask, RatioLevel.sequence, [0, 0, 0]),  # 3 * 1/2 * 1/4 = 0.375
        (Correction.geometric, RatioLevel.sequence, [1, 1, 1]),  # 0.375^(1/3) = 0.72
    ],
)
def test_correction_by_hand(correction: Correction, level: RatioLevel, weights: list[float]):
    # proximal / behaviour 3, 1/2 in a turn and 1/4 in the next; policy = proximal, so that every ratio is 1
    batch = pack([(2.0, [-1.0, -0.5]), (-1.0, [-0.3])])
    batch = replace(batch, proximal_logprobs=None)
    policy = moved(batch, *[math.log(rho) for rho in (3, 0.5, 0.25)])
    component = ClippedLoss(correction=correction, correction_level=level, correction_low=0.45, correction_high=2.0)
    output = component(policy, batch)
    parts = [w * a / 3 for w, a in zip(weights, [2, 2, -1], strict=True)]  # over all three tokens, whatever is left
    assert output.loss.item() == pytest.approx(-sum(parts), abs=1e-7)
    assert gradient(output.loss, policy)[batch.loss_mask].tolist() == pytest.approx([-x for x in parts], abs=1e-7)
    assert output.metrics == pytest.approx(
        {
            "loss/value": -sum(parts),
            "loss/policy": -sum(parts),
            "loss/clip_fraction": 0,
            "loss/correction_weight": sum(weights) / 3,
            "loss/correction_zeroed": weights.count(0) / 3,
        },
        abs=1e-7,
    )


def test_the_correction_weighs_what_clipping_left():
    # ratio 1.5 clipped at 1.2, times rho = 2 on advantage 1
    batch = pack([(1.0, [-1.0])])
    assert batch.proximal_logprobs is not None
    batch = replace(batch, proximal_logprobs=shifted(batch.proximal_logprobs, batch, math.log(2)))
    output = ClippedLoss(correction=Correction.truncate, correction_high=5.0)(moved(batch, math.log(3)), batch)
    assert output.loss.item() == pytest.approx(-2.4)


@pytest.mark.parametrize(
    ("estimator", "estimates", "slopes"),
    [
        # d = log reference - log policy = log 1/2 and log 2; slopes of k1: 1, of k2: -d, of k3: 1 - e^d
        (KlEstimator.k1, [0.693147, -0.693147], [1, 1]),
        (KlEstimator.k2, [0.240227, 0.240227], [0.693147, -0.693147]),
        (KlEstimator.k3, [0.193147, 0.306853], [0.5, -1]),
    ],
)
@pytest.mark.parametrize("reduction", [Reduction.token, Reduction.turn, Reduction.constant])
def test_kl_by_hand(estimator: KlEstimator, estimates: list[float], slopes: list[float], reduction: Reduction):
    batch = pack([(0.0, [-1.0, -1.0])])
    reference = shifted(batch.behaviour_logprobs, batch, math.log(0.5), math.log(2))
    batch = replace(batch, reference_logprobs=reference)
    policy = moved(batch, 0.0, 0.0)
    component = ClippedLoss(kl_weight=0.1, kl_estimator=estimator, reduction=reduction, constant_length=10)
    output = component(policy, batch)
    weight = 0.1 / (10 if reduction == Reduction.constant else 2)
    assert output.loss.item() == pytest.approx(weight * sum(estimates), abs=1e-6)
    expected = [weight * slope for slope in slopes]
    assert gradient(output.loss, policy)[batch.loss_mask].tolist() == pytest.approx(expected, abs=1e-6)
    assert set(output.metrics) == {*METRICS, "loss/kl"}
    assert output.metrics["loss/kl"] == pytest.approx(sum(estimates) / 2, abs=1e-6)
    assert output.metrics["loss/policy"] == 0


def test_entropy_by_hand():
    # turns of 2 and 1 tokens count alike: weights 1/4, 1/4, 1/2; bonus .1 (1/4 + 2/4 + 3/2)
    batch = pack([(0.0, [-1.0, -1.0]), (0.0, [-1.0])])
    entropy = moved(batch, 0, 0, 0).detach()
    entropy[batch.loss_mask] = torch.tensor([1.0, 2.0, 3.0], dtype=entropy.dtype)
    policy, entropy = moved(batch, 0, 0, 0), entropy.requires_grad_()
    output = ClippedLoss(entropy_weight=0.1, reduction=Reduction.turn)(policy, batch, entropy)
    assert output.loss.item() == pytest.approx(-0.1 * 2.25)
    assert gradient(output.loss, entropy)[batch.loss_mask].tolist() == pytest.approx([-0.025, -0.025, -0.05])
    assert output.metrics == pytest.approx({"loss/value": -0.225, "loss/policy": 0, "loss/clip_fraction": 0})


def test_the_value_is_the_sum_of_its_terms():
    # all tokens alike in weight: value = policy + 0.2 kl - 0.01 entropy
    batch = replace(BATCH, reference_logprobs=shifted(BATCH.behaviour_logprobs, BATCH, *[0.1] * 7))
    entropy = torch.full_like(batch.behaviour_logprobs, 1.5).requires_grad_()
    policy = moved(batch, 0.3, -0.1, -0.4, 0.05, 0.2, -0.3, 0.1)
    metrics = ClippedLoss(kl_weight=0.2, entropy_weight=0.01)(policy, batch, entropy).metrics
    assert metrics["loss/kl"] > 0
    assert metrics["loss/value"] == pytest.approx(metrics["loss/policy"] + 0.2 * metrics["loss/kl"] - 0.015, rel=1e-6)
