"""A step cut into parts, and steps of which nothing is left."""

import itertools
from dataclasses import replace

import pytest
import torch

from loss_batches import BATCH, gradient, moved, off_policy, pack
from turnwise.core.correction import Correction
from turnwise.core.ratios import RatioLevel
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss

EVERY_KIND = list(itertools.product(RatioLevel, Reduction))


@pytest.mark.parametrize(
    ("ratio_level", "reduction", "correction", "correction_level"),
    [*itertools.product(RatioLevel, Reduction, Correction, RatioLevel)],
)
def test_parts_add_up_to_the_whole(
    ratio_level: RatioLevel, reduction: Reduction, correction: Correction, correction_level: RatioLevel
):
    component = ClippedLoss(
        ratio_level=ratio_level,
        reduction=reduction,
        correction=correction,
        correction_level=correction_level,
        dual_clip=1.1,
        kl_weight=0.1,
        entropy_weight=0.05,
    )
    policy, entropy, batch = off_policy()
    whole = component(policy, batch, entropy)
    gradients = [gradient(whole.loss, x).tolist() for x in (policy, entropy)]
    for parts in ([[0], [1], [2]], [[2, 0], [1]], [[1, 2, 0]]):
        outputs = []
        for part in parts:
            places = batch.places(part)
            outputs.append(component(policy[places], batch.select(part), entropy[places]))
        total = torch.stack([output.loss for output in outputs]).sum()
        assert total.item() == pytest.approx(whole.loss.item(), rel=1e-6)
        for x, expected in zip((policy, entropy), gradients, strict=True):
            assert gradient(total, x).tolist() == pytest.approx(expected, rel=1e-6)
        for name, value in whole.metrics.items():
            assert sum(output.metrics[name] for output in outputs) == pytest.approx(value, rel=1e-6, abs=1e-12)


def test_the_terms_of_that_test_are_all_at_work():
    policy, entropy, batch = off_policy()
    for ratio_level, correction_level in itertools.product(RatioLevel, RatioLevel):
        component = ClippedLoss(
            ratio_level=ratio_level, correction=Correction.mask, correction_level=correction_level, dual_clip=1.1
        )
        zeroed = component(policy, batch).metrics["loss/correction_zeroed"]
        assert 0 < zeroed < 1, correction_level
    metrics = ClippedLoss(dual_clip=1.1, clip_high=0.15)(policy, batch, entropy).metrics
    assert metrics["loss/clip_fraction"] > 0
    assert metrics["loss/dual_clip_fraction"] > 0


@pytest.mark.parametrize(("ratio_level", "reduction"), EVERY_KIND)
@pytest.mark.parametrize("correction", list(Correction))
def test_a_fully_masked_step_is_zero_and_never_nan(
    ratio_level: RatioLevel, reduction: Reduction, correction: Correction
):
    policy, entropy, batch = off_policy()
    masked = replace(
        batch,
        loss_mask=torch.zeros_like(BATCH.loss_mask),
        num_loss_tokens=0,
        num_loss_turns=0,
        num_loss_sequences=0,
    )
    component = ClippedLoss(
        ratio_level=ratio_level,
        reduction=reduction,
        correction=correction,
        correction_level=ratio_level,
        dual_clip=3.0,
        kl_weight=0.1,
        entropy_weight=0.1,
    )
    output = component(policy, masked, entropy)
    assert output.loss.item() == 0
    for tensor in (policy, entropy):
        assert gradient(output.loss, tensor).tolist() == [0] * len(policy)
    assert set(output.metrics.values()) == {0}


def test_a_fully_masked_part_of_a_step_adds_nothing():
    batch = pack([(1.0, [-1.0])], [])
    component = ClippedLoss()
    policy = moved(batch, 0.1)
    part = component(policy[3:], batch.select([1]))
    assert part.loss.item() == 0
    assert component(policy, batch).loss.item() == pytest.approx(component(policy[:3], batch.select([0])).loss.item())
