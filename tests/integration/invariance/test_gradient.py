"""The gradient of one step is the same however the step is cut, ordered or padded, and sees sampled tokens only.

Tolerance: float32 rounding, 1e-5 of the largest entry of each weight's gradient (`assert_same_gradient`).
"""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ragged_steps import STEPS, assert_same_gradient, off_policy, ragged_step, selected, tiny_policy, updated
from tiny_models import small_model
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.core.correction import Correction
from turnwise.core.ratios import RatioLevel
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss
from turnwise.rollout.packing import pack, taking_part
from turnwise.types import ScoredGroup, StopReason, TokenBatch

EVERY_TERM: dict[str, Any] = {"dual_clip": 3.0, "kl_weight": 0.1, "entropy_weight": 0.01}
LOSSES = [
    ClippedLoss(ratio_level=level, reduction=reduction, correction=correction, correction_level=level, **EVERY_TERM)
    for level, reduction, correction in itertools.product(RatioLevel, Reduction, Correction)
]
EXAMPLES = settings(max_examples=15, deadline=None)


def packed(groups: list[ScoredGroup]) -> TokenBatch:
    return pack(groups, TurnReturnAdvantage()(groups), temperature=0.9)


def off_policy_update(batch: TokenBatch, loss: ClippedLoss = LOSSES[0], **options: Any):
    return updated(batch, loss, has_entropy_gradient=True, **options)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.ratio_level}-{loss.reduction}-{loss.correction}")
def test_micro_batches_of_one_sequence_or_of_all(loss: ClippedLoss):
    batch = off_policy(packed(ragged_step(seed=3)))
    whole = off_policy_update(batch, loss, token_budget=10_000)
    alone = off_policy_update(batch, loss, token_budget=1)
    assert whole.figures["update/num_micro_batches"] == 1
    assert alone.figures["update/num_micro_batches"] == batch.num_sequences
    assert max(float(gradient.abs().max()) for gradient in whole.gradient.values()) > 1e-4, "there is one to compare"
    assert_same_gradient(whole.gradient, alone.gradient)
    for name in whole.figures.keys() - {"update/num_micro_batches", "update/shared_fraction"}:
        assert alone.figures[name] == pytest.approx(whole.figures[name], rel=1e-4, abs=1e-6), name


@EXAMPLES
@given(groups=STEPS, token_budget=st.integers(1, 200), logit_chunk=st.integers(1, 50))
def test_any_budget_and_any_chunk(groups: list[ScoredGroup], token_budget: int, logit_chunk: int):
    batch = off_policy(packed(groups))
    cut = off_policy_update(batch, token_budget=token_budget, logit_chunk=logit_chunk)
    assert_same_gradient(off_policy_update(batch, token_budget=10_000).gradient, cut.gradient)


@EXAMPLES
@given(groups=STEPS, random=st.randoms(use_true_random=False))
def test_any_order_of_the_sequences(groups: list[ScoredGroup], random):
    batch = off_policy(packed(groups))
    order = random.sample(range(batch.num_sequences), batch.num_sequences)
    assert_same_gradient(off_policy_update(batch).gradient, off_policy_update(batch.select(order)).gradient)


@EXAMPLES
@given(groups=STEPS, random=st.randoms(use_true_random=False))
def test_any_order_of_groups_and_siblings(groups: list[ScoredGroup], random):
    shuffled = [
        selected(scored, random.sample(range(len(scored.correct_G)), len(scored.correct_G)))
        for scored in random.sample(groups, len(groups))
    ]
    # On-policy, so that what the tokens carry does not depend on their place in the batch.
    loss = ClippedLoss(reduction=Reduction.turn)
    assert_same_gradient(updated(packed(groups), loss).gradient, updated(packed(shuffled), loss).gradient)


@EXAMPLES
@given(groups=STEPS, pad=st.integers(0, 292))
def test_what_fills_the_rows_is_never_seen(groups: list[ScoredGroup], pad: int):
    batch = off_policy(packed(groups))
    model = small_model(seed=1)
    tiny_policy(model, has_entropy_gradient=True, token_budget=10_000, pad_token_id=pad).update(batch, LOSSES[0])
    expected = off_policy_update(batch, token_budget=10_000).gradient
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert torch.equal(weight.grad, expected[name]), name


def test_excluded_trajectories_change_nothing_but_the_counts():
    groups = ragged_step(seed=5, num_excluded=2)
    kept = [
        selected(scored, [g for g, t in enumerate(scored.group.trajectories) if not t.is_excluded]) for scored in groups
    ]
    with_them, without_them = updated(packed(groups), ClippedLoss()), updated(packed(kept), ClippedLoss())
    assert with_them.figures == without_them.figures
    assert all(torch.equal(with_them.gradient[name], without_them.gradient[name]) for name in with_them.gradient)


@pytest.mark.parametrize("seed", range(4))
def test_logits_of_prompt_and_tool_tokens_are_never_seen(seed: int):
    batch = off_policy(packed(ragged_step(seed, num_groups=1, group_size=2, num_excluded=0))).select([0])
    expected = off_policy_update(batch)
    predicts_loss = batch.loss_mask.roll(-1)
    predicts_loss[-1] = False
    assert not predicts_loss.all(), "some token is predicted for nothing"

    model = small_model(seed=1)

    def disturb(module, args, output):
        noise = torch.randn(output.last_hidden_state.shape, generator=torch.Generator().manual_seed(seed)) * 100
        output.last_hidden_state = output.last_hidden_state + noise * ~predicts_loss[: noise.shape[1], None]
        return output

    policy = tiny_policy(model, has_entropy_gradient=True)
    model.get_decoder().register_forward_hook(disturb)
    policy.update(batch, LOSSES[0])
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert torch.equal(weight.grad, expected.gradient[name]), name


@pytest.mark.parametrize("num_groups", [0, 2])
def test_a_step_in_which_nothing_counts_has_no_gradient(num_groups: int):
    groups = ragged_step(seed=1, num_groups=num_groups, num_excluded=4)
    update = off_policy_update(off_policy(packed(groups)))
    assert all(float(gradient.abs().max()) == 0 for gradient in update.gradient.values())
    assert update.figures["loss/value"] == update.figures["loss/grad_norm"] == 0


def test_a_step_of_void_turns_alone_has_no_gradient():
    groups = [voided(scored) for scored in ragged_step(seed=2, num_excluded=0)]
    batch = pack(
        groups, TurnReturnAdvantage()(groups), temperature=1.0, takes_part=taking_part(groups, drop_void_turns=True)
    )
    assert batch.num_sequences == 0
    assert updated(batch, ClippedLoss()).figures["loss/grad_norm"] == 0


def voided(scored: ScoredGroup) -> ScoredGroup:
    trajectories = tuple(
        replace(t, stop_reason=StopReason.void_turn, turns=(*t.turns[:-1], replace(t.turns[-1], tool_calls=())))
        for t in scored.group.trajectories
    )
    return replace(scored, group=replace(scored.group, trajectories=trajectories))


@pytest.mark.parametrize("level", list(RatioLevel))
@pytest.mark.parametrize("reduction", list(Reduction))
def test_advantages_of_zero_give_a_gradient_of_zero(level: RatioLevel, reduction: Reduction):
    batch = off_policy(packed(ragged_step(seed=7)))
    silent = replace(batch, advantages=torch.zeros_like(batch.advantages))
    update = updated(silent, ClippedLoss(ratio_level=level, reduction=reduction))
    assert all(float(gradient.abs().max()) == 0 for gradient in update.gradient.values())
