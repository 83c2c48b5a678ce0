import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from turnwise.core.ratios import RatioLevel
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss
from turnwise.types import TokenBatch

EVERY_KIND = list(itertools.product(RatioLevel, Reduction))
METRICS = {"loss/value", "loss/clip_fraction", "mismatch/kl", "mismatch/ratio_mean"}


def pack(*sequences: Sequence[tuple[float, Sequence[float]]]) -> TokenBatch:
    """One prompt token, then for each turn `(advantage, behaviour log-probs)` its tokens and a tool token."""
    columns: list[tuple[int, int, bool, float, float, int, int]] = []
    lengths = [0]
    for s, turns in enumerate(sequences):
        rows = [(-1, False, 0.0, 0.0)]
        for k, (advantage, logprobs) in enumerate(turns):
            rows += [(k, True, advantage, logprob) for logprob in logprobs]
            rows += [(-1, False, 0.0, 0.0)]
        columns += [(7, n, mask, a, logprob, k, s) for n, (k, mask, a, logprob) in enumerate(rows)]
        lengths.append(len(rows))
    token, position, mask, advantage, logprob, turn, sequence = zip(*columns, strict=True)
    return TokenBatch(
        token_ids=torch.tensor(token),
        position_ids=torch.tensor(position),
        loss_mask=torch.tensor(mask),
        advantages=torch.tensor(advantage, dtype=torch.float32),
        behaviour_logprobs=torch.tensor(logprob, dtype=torch.float32),
        turn_index=torch.tensor(turn),
        sequence_index=torch.tensor(sequence),
        cu_seqlens=torch.tensor(lengths).cumsum(0).int(),
        num_loss_tokens=sum(mask),
        num_loss_turns=sum(len(turns) for turns in sequences),
        num_loss_sequences=sum(bool(turns) for turns in sequences),
        temperature=1.0,
    )


# Sequence 0: a turn of 2 tokens and a turn of 1; sequence 1: a turn of 1; sequence 2: a turn of 3.
BATCH = pack(
    [(2.0, [-1.0, -0.5]), (-1.0, [-0.3])],
    [(0.5, [-2.0])],
    [(-0.5, [-0.1, -0.2, -0.7])],
)


def moved(batch: TokenBatch, *log_ratios: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Policy log-probs at the given log-ratios from the behaviour's, in the order of the loss tokens."""
    logprobs = batch.behaviour_logprobs.to(dtype)
    logprobs[batch.loss_mask] += torch.tensor(log_ratios, dtype=dtype)
    return logprobs.requires_grad_()


def gradient(loss: Tensor, policy_logprobs: Tensor) -> Tensor:
    return torch.autograd.grad(loss, policy_logprobs)[0]


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
    agreed = {"loss/value": value, "loss/clip_fraction": 0, "mismatch/kl": 0, "mismatch/ratio_mean": 1}
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


def test_metrics_by_hand():
    # log-ratios log 2 and 0: k3 = 2 - 1 - log 2 = .306853 and 0; ratios 2 and 1
    batch = pack([(1.0, [-1.0, -1.0])])
    metrics = ClippedLoss()(moved(batch, math.log(2), 0.0), batch).metrics
    assert set(metrics) == METRICS
    assert metrics["mismatch/kl"] == pytest.approx(0.306853 / 2, abs=1e-6)
    assert metrics["mismatch/ratio_mean"] == pytest.approx(1.5)
    assert metrics["loss/value"] == pytest.approx(-(1.2 + 1) / 2)


@pytest.mark.parametrize(("ratio_level", "reduction"), EVERY_KIND)
@pytest.mark.parametrize("parts", [[[0], [1], [2]], [[2, 0], [1]], [[1, 2, 0]]])
def test_parts_add_up_to_the_whole(ratio_level: RatioLevel, reduction: Reduction, parts: list[list[int]]):
    component = ClippedLoss(ratio_level=ratio_level, reduction=reduction)
    policy = moved(BATCH, 0.3, -0.1, -0.4, 0.05, 0.2, -0.3, 0.1)
    whole = component(policy, BATCH)
    edges = BATCH.cu_seqlens.tolist()
    outputs = []
    for part in parts:
        places = torch.cat([torch.arange(edges[s], edges[s + 1]) for s in part])
        outputs.append(component(policy[places], BATCH.select(part)))
    total = torch.stack([output.loss for output in outputs]).sum()
    assert total.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert gradient(total, policy).tolist() == pytest.approx(gradient(whole.loss, policy).tolist(), rel=1e-6)
    for name, value in whole.metrics.items():
        assert sum(output.metrics[name] for output in outputs) == pytest.approx(value, rel=1e-6, abs=1e-12)


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


@pytest.mark.parametrize(("ratio_level", "reduction"), EVERY_KIND)
def test_a_fully_masked_step_is_zero_and_never_nan(ratio_level: RatioLevel, reduction: Reduction):
    masked = replace(
        BATCH,
        loss_mask=torch.zeros_like(BATCH.loss_mask),
        num_loss_tokens=0,
        num_loss_turns=0,
        num_loss_sequences=0,
    )
    policy = moved(BATCH, *[0.1] * 7)
    output = ClippedLoss(ratio_level=ratio_level, reduction=reduction)(policy, masked)
    assert output.loss.item() == 0
    assert gradient(output.loss, policy).tolist() == [0] * len(policy)
    assert output.metrics == dict.fromkeys(METRICS, 0)


def test_a_fully_masked_part_of_a_step_adds_nothing():
    batch = pack([(1.0, [-1.0])], [])
    component = ClippedLoss()
    policy = moved(batch, 0.1)
    part = component(policy[3:], batch.select([1]))
    assert part.loss.item() == 0
    assert component(policy, batch).loss.item() == pytest.approx(component(policy[:3], batch.select([0])).loss.item())


def test_masked_tokens_are_never_read():
    policy = moved(BATCH, 0.3, -0.1, -0.4, 0.05, 0.2, -0.3, 0.1)
    expected = ClippedLoss()(policy, BATCH)
    junk = policy.detach().masked_fill(~BATCH.loss_mask, math.nan).requires_grad_()
    batch = replace(BATCH, behaviour_logprobs=BATCH.behaviour_logprobs.masked_fill(~BATCH.loss_mask, -math.inf))
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


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("clip_low", -0.1, "0 to 1"),
        ("clip_low", 1.1, "0 to 1"),
        ("clip_low", math.nan, "0 to 1"),
        ("clip_high", -0.1, "0 or more"),
        ("clip_high", math.nan, "0 or more"),
        ("constant_length", 0, "1 or more"),
    ],
)
def test_fields_out_of_range(field: str, value: Any, expected: str):
    with pytest.raises(ValueError, match=f"{field}={value}: expected {expected}"):
        ClippedLoss(**{field: value})


def test_defaults_are_the_documented_ones():
    assert ClippedLoss() == ClippedLoss(
        clip_low=0.2,
        clip_high=0.2,
        ratio_level=RatioLevel.token,
        reduction=Reduction.token,
        constant_length=1024,
    )
