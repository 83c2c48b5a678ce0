import math
from dataclasses import replace
from typing import Any

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
    ("reduction", "weights"),
    [
        (Reduction.token, [1 / 7] * 7),
        (Reduction.turn, [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 12, 1 / 12, 1 / 12]),  # 4 turns of 2, 1, 1, 3 tokens
        (Reduction.sequence, [1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 9, 1 / 9, 1 / 9]),  # 3 sequences of 3, 1, 3 tokens
        (Reduction.constant, [1 / 30] * 7),  # 3 sequences of a nominal 10
    ],
)
@pytest.mark.parametrize("ratio_level", list(RatioLevel))
def test_at_ratio_one_the_gradient_is_minus_the_advantage_over_n(
    ratio_level: RatioLevel, reduction: Reduction, weights: list[float]
):
    policy = moved(BATCH, *[0.0] * 7)
    output = ClippedLoss(ratio_level=ratio_level, reduction=reduction, constant_length=10)(policy, BATCH)
    advantages = [2.0, 2.0, -1.0, 0.5, -0.5, -0.5, -0.5]
    expected = torch.zeros(len(policy))
    expected[BATCH.loss_mask] = -torch.tensor([a * w for a, w in zip(advantages, weights, strict=True)])
    assert gradient(output.loss, policy).tolist() == pytest.approx(expected.tolist(), abs=1e-7)
    value = -sum(a * w for a, w in zip(advantages, weights, strict=True))
    assert output.loss.item() == pytest.approx(value, abs=1e-7)
    agreed = {"loss/value": value, "loss/policy": value, "loss/clip_fraction": 0}
    assert output.metrics == pytest.approx(agreed, abs=1e-7)


@pytest.mark.parametrize(
    ("ratio_level", "exponents"),
    [
        (RatioLevel.token, [0.1, -0.3, 0.15]),
        (RatioLevel.turn, [-0.1, -0.1, 0.15]),  # (0.1 - 0.3) / 2
        (RatioLevel.sequence, [-0.05 / 3] * 3),  # (0.1 - 0.3 + 0.15) / 3
    ],
)
def test_ratio_levels_by_hand(ratio_level: RatioLevel, exponents: list[float]):
    batch = pack([(2.0, [-1.0, -0.5]), (-1.0, [-0.3])])
    output = ClippedLoss(ratio_level=ratio_level, clip_low=1.0, clip_high=math.inf)(
        moved(batch, 0.1, -0.3, 0.15), batch
    )
    expected = -sum(math.exp(x) * a for x, a in zip(exponents, [2, 2, -1], strict=True)) / 3
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)


def test_clipping_by_hand():
    # ratios 1.5, 1.25, 0.5, 0.5 on advantages 1, 1, 1, -1 with clip .2 / .28:
    # min(1.5, 1.28) + min(1.25, 1.25) + min(0.5, 0.8) + min(-0.5, -0.8) = 1.28 + 1.25 + 0.5 - 0.8 = 2.23
    batch = pack([(1.0, [-1.0, -1.0, -1.0]), (-1.0, [-1.0])])
    policy = moved(batch, *[math.log(w) for w in (1.5, 1.25, 0.5, 0.5)])
    output = ClippedLoss(clip_low=0.2, clip_high=0.28)(policy, batch)
    assert output.loss.item() == pytest.approx(-2.23 / 4)
    assert output.metrics["loss/clip_fraction"] == pytest.approx(2 / 4)
    # clipped tokens stand still, the others move by -w A / N
    assert gradient(output.loss, policy)[batch.loss_mask].tolist() == pytest.approx([0, -1.25 / 4, -0.5 / 4, 0])


@pytest.mark.parametrize("ratio_level", list(RatioLevel))
@pytest.mark.parametrize("clips", [(0.2, 0.2), (0.0, 0.0)])
def test_on_policy_the_ratio_is_one_whatever_the_sampler_says(ratio_level: RatioLevel, clips: tuple[float, float]):
    # A log-prob of -12.3 is no round number in float32; the ratio is exactly 1 all the same.
    batch = replace(BATCH, proximal_logprobs=None)
    policy = torch.full_like(batch.behaviour_logprobs, -12.3).requires_grad_()
    output = ClippedLoss(ratio_level=ratio_level, clip_low=clips[0], clip_high=clips[1])(policy, batch)
    advantages = torch.tensor([2.0, 2.0, -1.0, 0.5, -0.5, -0.5, -0.5])
    assert output.loss.item() == -(advantages * torch.tensor(1 / 7)).sum().item()
    assert gradient(output.loss, policy)[batch.loss_mask].tolist() == (-advantages * torch.tensor(1 / 7)).tolist()
    assert output.metrics["loss/clip_fraction"] == 0


def test_the_ratio_is_to_the_proximal_policy():
    # proximal 0.3 above the behaviour, policy 0.5 above it: the ratio is e^0.2
    batch = pack([(1.0, [-1.0])])
    assert batch.proximal_logprobs is not None
    batch = replace(batch, proximal_logprobs=shifted(batch.proximal_logprobs, batch, 0.3))
    output = ClippedLoss(clip_high=math.inf)(moved(batch, 0.5), batch)
    assert output.loss.item() == pytest.approx(-math.exp(0.2), rel=1e-6)


def test_the_dual_clip_by_hand():
    # ratios 2, 4 on advantage -1 and 4 on advantage 1, dual clip 3, clip .2: -2, -3, 1.2; loss 3.8 / 3
    batch = pack([(-1.0, [-1.0, -1.0]), (1.0, [-1.0])])
    policy = moved(batch, *[math.log(w) for w in (2, 4, 4)])
    output = ClippedLoss(dual_clip=3.0)(policy, batch)
    assert output.loss.item() == pytest.approx(3.8 / 3)
    assert gradient(output.loss, policy)[batch.loss_mask].tolist() == pytest.approx([2 / 3, 0, 0])
    assert set(output.metrics) == {*METRICS, "loss/dual_clip_fraction"}
    assert output.metrics["loss/dual_clip_fraction"] == pytest.approx(1 / 3)
    assert output.metrics["loss/clip_fraction"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("clips", [(0.2, 0.2), (3e-4, 4e-4)])
def test_sequence_level_is_gspo_where_a_sequence_has_one_advantage(clips: tuple[float, float]):
    batch = pack([(1.5, [-1.0, -0.5]), (1.5, [-0.3])], [(-0.5, [-2.0, -1.0])], [(-2.0, [-0.4])])
    policy = moved(batch, 0.1, 0.15, -0.1, -0.02, 0.01, 0.3)
    component = ClippedLoss(
        ratio_level=RatioLevel.sequence, reduction=Reduction.sequence, clip_low=clips[0], clip_high=clips[1]
    )
    objectives = []
    for sequence, advantage in enumerate((1.5, -0.5, -2.0)):
        places = batch.loss_mask & (batch.sequence_index == sequence)
        ratio = (policy - batch.behaviour_logprobs)[places].mean().exp()
        objectives.append(torch.minimum(ratio * advantage, ratio.clamp(1 - clips[0], 1 + clips[1]) * advantage))
    literal = -torch.stack(objectives).mean()
    output = component(policy, batch)
    assert output.loss.item() == pytest.approx(literal.item(), rel=1e-6)
    assert gradient(output.loss, policy).tolist() == pytest.approx(gradient(literal, policy).tolist(), rel=1e-6)


def test_masked_tokens_are_never_read():
    policy = moved(BATCH, 0.3, -0.1, -0.4, 0.05, 0.2, -0.3, 0.1)
    expected = ClippedLoss()(policy, BATCH)
    junk = policy.detach().masked_fill(~BATCH.loss_mask, math.nan).requires_grad_()
    nowhere = BATCH.behaviour_logprobs.masked_fill(~BATCH.loss_mask, -math.inf)
    batch = replace(BATCH, behaviour_logprobs=nowhere, proximal_logprobs=nowhere)
    output = ClippedLoss()(junk, batch)
    assert output.metrics == expected.metrics
    assert torch.equal(gradient(output.loss, junk), gradient(expected.loss, policy))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_loss_is_taken_in_float32_at_least(dtype: torch.dtype):
    policy = moved(BATCH, *[0.25] * 7, dtype=dtype)
    output = ClippedLoss()(policy, BATCH)
    assert output.loss.dtype == torch.float32
    assert gradient(output.loss, policy).dtype == dtype


def test_zero_advantages_move_nothing():
    batch = pack([(0.0, [-1.0, -0.5])])
    policy = moved(batch, 0.5, -0.5)
    output = ClippedLoss()(policy, batch)
    assert output.loss.item() == 0
    assert gradient(output.loss, policy).abs().max().item() == 0


def test_loss_descends_towards_better_turns():
    # One step against the gradient raises the log-probs of the good turn and lowers those of the bad one.
    batch = pack([(1.0, [-1.0]), (-1.0, [-1.0])])
    policy = moved(batch, 0.0, 0.0)
    step = -gradient(ClippedLoss()(policy, batch).loss, policy)[batch.loss_mask]
    assert step.tolist() == pytest.approx([0.5, -0.5])


def test_log_probs_must_fit_the_batch():
    with pytest.raises(ValueError, match=r"policy_logprobs_N of shape \(3,\): expected \(14,\)"):
        ClippedLoss()(torch.zeros(3), BATCH)


def test_the_step_has_at_least_the_tokens_of_its_part():
    with pytest.raises(ValueError, match="num_loss_tokens=6: the batch alone has 7"):
        ClippedLoss()(moved(BATCH, *[0.0] * 7), replace(BATCH, num_loss_tokens=6))


@pytest.mark.parametrize("size", [3, 15])
def test_entropies_must_fit_the_batch(size: int):
    with pytest.raises(ValueError, match=rf"entropy_N of shape \({size},\): expected \(14,\)"):
        ClippedLoss()(moved(BATCH, *[0.0] * 7), BATCH, torch.zeros(size))


def test_what_a_term_needs_must_be_there():
    policy = moved(BATCH, *[0.0] * 7)
    with pytest.raises(ValueError, match=r"loss\.kl_weight=0\.1: the batch has no log-probs of a reference policy"):
        ClippedLoss(kl_weight=0.1)(policy, BATCH)
    with pytest.raises(ValueError, match=r"loss\.entropy_weight=0\.1: no entropies were given"):
        ClippedLoss(entropy_weight=0.1)(policy, BATCH)
    with pytest.raises(ValueError, match=r"loss\.entropy_weight=0\.1: the entropies carry no gradient"):
        ClippedLoss(entropy_weight=0.1)(policy, BATCH, torch.zeros(14))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("clip_low", -0.1, "0 to 1"),
        ("clip_low", 1.1, "0 to 1"),
        ("clip_low", math.nan, "0 to 1"),
        ("clip_high", -0.1, "0 or more"),
        ("clip_high", math.nan, "0 or more"),
        ("dual_clip", 1.0, "more than 1"),
        ("dual_clip", math.nan, "more than 1"),
        ("constant_length", 0, "1 or more"),
        ("kl_weight", -0.1, "at least 0 and finite"),
        ("kl_weight", math.nan, "at least 0 and finite"),
        ("entropy_weight", -0.1, "at least 0 and finite"),
        ("entropy_weight", math.inf, "at least 0 and finite"),
        ("correction_low", -0.1, "0 to 1"),
        ("correction_low", 1.1, "0 to 1"),
        ("correction_high", 0.9, "1 or more"),
        ("correction_high", math.nan, "1 or more"),
    ],
)
def test_fields_out_of_range(field: str, value: Any, expected: str):
    with pytest.raises(ValueError, match=f"{field}={value}: expected {expected}"):
        ClippedLoss(**{field: value})


def test_defaults_are_the_documented_ones():
    assert ClippedLoss() == ClippedLoss(
        clip_low=0.2,
        clip_high=0.2,
        dual_clip=math.inf,
        ratio_level=RatioLevel.token,
        reduction=Reduction.token,
        constant_length=1024,
        kl_weight=0.0,
        kl_estimator=KlEstimator.k3,
        entropy_weight=0.0,
        correction=Correction.none,
        correction_level=RatioLevel.token,
        correction_low=0.5,
        correction_high=2.0,
    )


@pytest.mark.parametrize("name", ["ratio_level", "reduction", "kl_estimator", "correction", "correction_level"])
def test_an_unknown_choice_is_named_with_those_that_there_are(name: str):
    fields: dict[str, Any] = {name: "tokn"}
    with pytest.raises(ValueError, match=f"{name}=tokn: expected one of "):
        ClippedLoss(**fields)
