"""Updates of several optimiser steps, the passes that they need, and what a loss can ask for."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import PolicyGradientLoss, small_model, small_policy, token_batch
from turnwise.loss.clipped import ClippedLoss
from turnwise.types import LossOutput, TokenBatch

# Four sequences of 20 tokens in all, with 2, 4, 1 and 3 loss tokens.
SEQUENCES = (
    ((20, 21, 22, 23), (0, 0, 1, 1)),
    ((30, 31, 32, 33, 34, 35, 36), (0, 1, 1, 0, 0, 1, 1)),
    ((40, 41), (0, 1)),
    ((50, 51, 52, 53, 54, 55, 56), (0, 0, 0, 0, 1, 1, 1)),
)
BATCH = token_batch(SEQUENCES)


class Recorder:
    """Keeps the batches that the loss was asked about."""

    def __init__(self) -> None:
        self.batches: list[TokenBatch] = []
        self.logprobs: list[Tensor] = []

    def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
        self.batches.append(batch)
        self.logprobs.append(policy_logprobs_N.detach())
        return PolicyGradientLoss()(policy_logprobs_N, batch)


def forward_passes(model: Any) -> list[int]:
    """Grows by the number of tokens at each forward pass of `model`."""
    tokens: list[int] = []
    model.get_decoder().register_forward_hook(
        lambda module, args, kwargs, out: tokens.append(out[0].shape[1]), with_kwargs=True
    )
    return tokens


def test_a_single_step_is_on_policy_and_makes_no_extra_pass() -> None:
    model, loss = small_model(), Recorder()
    made = small_policy(model)
    passes = forward_passes(model)
    made.update(BATCH, loss)
    assert passes == [20]
    assert loss.batches[0].proximal_logprobs is None


@pytest.mark.parametrize(("num_epochs", "num_minibatches"), [(3, 1), (1, 3), (2, 2)])
def test_several_steps_share_the_proximal_policy_of_one_pass(num_epochs: int, num_minibatches: int) -> None:
    model, loss = small_model(), Recorder()
    before = small_policy(small_model()).logprobs(BATCH)
    made = small_policy(model, num_epochs=num_epochs, num_minibatches=num_minibatches)
    passes = forward_passes(model)
    made.update(BATCH, loss)
    assert passes[0] == 20, "the proximal pass over the whole batch"
    assert len(passes) == 1 + num_epochs * num_minibatches
    assert sum(passes[1:]) == 20 * num_epochs
    # A first minibatch is scored by the proximal policy itself; later ones have moved away from it.
    first, last = loss.batches[0], loss.batches[-1]
    assert first.proximal_logprobs is not None
    assert last.proximal_logprobs is not None
    torch.testing.assert_close(loss.logprobs[0], first.proximal_logprobs, rtol=0, atol=1e-5)
    assert (loss.logprobs[-1] - last.proximal_logprobs).abs().max() > 1e-2
    torch.testing.assert_close(last.proximal_logprobs[last.loss_mask], before[expected_places(last)], rtol=0, atol=1e-5)


def expected_places(batch: TokenBatch) -> Tensor:
    """Where the loss tokens of `batch` lie in BATCH; no token occurs twice in it."""
    return torch.tensor([BATCH.token_ids.tolist().index(token) for token in batch.token_ids[batch.loss_mask].tolist()])


def test_minibatches_are_steps_with_counts_of_their_own() -> None:
    loss = Recorder()
    made = small_policy(num_minibatches=2, token_budget=1)
    made.update(BATCH, loss)
    # Sequences 0 and 2, then 1 and 3; the counts are those of the minibatch, not of the part.
    assert [batch.token_ids[0].item() for batch in loss.batches] == [20, 40, 30, 50]
    assert [batch.num_loss_tokens for batch in loss.batches] == [3, 3, 7, 7]
    assert [batch.num_loss_sequences for batch in loss.batches] == [2, 2, 2, 2]


def test_more_minibatches_than_sequences_are_as_many_as_sequences() -> None:
    loss = Recorder()
    metrics = small_policy(num_minibatches=9).update(BATCH, loss).metrics
    assert len(loss.batches) == 4
    assert metrics["update/num_micro_batches"] == 1
    assert metrics["update/num_steps"] == 4


def test_figures_are_those_of_the_minibatches_that_had_something_to_train() -> None:
    half = token_batch([SEQUENCES[0], ((60, 61), (0, 0))])
    figures = small_policy(num_minibatches=2).update(half, PolicyGradientLoss()).metrics
    alone = small_policy().update(half.select([0]).counted(), PolicyGradientLoss()).metrics
    for name in ("loss/value", "loss/entropy", "loss/grad_norm"):
        assert figures[name] == pytest.approx(alone[name], rel=1e-6), name


@pytest.mark.parametrize("breaks", ["policy", "reference"])
def test_log_probs_that_are_not_finite_stop_the_update_before_its_first_step(breaks: str) -> None:
    models = {"policy": small_model(), "reference": small_model(seed=5)}
    made = small_policy(models["policy"], reference=models["reference"], num_epochs=2)
    with torch.no_grad():
        models[breaks].get_output_embeddings().weight[7] = math.nan
    before = {name: weight.clone() for name, weight in made.weights().items()}
    with pytest.raises(FloatingPointError, match=r"the log-probs of sequences \[.*\] are not finite"):
        made.update(BATCH, PolicyGradientLoss())
    for name, weight in made.weights().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0, equal_nan=True)


def test_each_minibatch_moves_the_weights_once() -> None:
    one, two = small_policy(num_minibatches=2), small_policy()
    one.update(BATCH, PolicyGradientLoss())
    for part in (BATCH.select([0, 2]).counted(), BATCH.select([1, 3]).counted()):
        two.update(part, PolicyGradientLoss())
    for name, weight in one.weights().items():
        assert torch.equal(weight, two.weights()[name]), name


def test_figures_are_means_over_the_steps_and_the_mismatch_is_that_before_the_first() -> None:
    whole = small_policy(num_epochs=2)
    figures = whole.update(BATCH, PolicyGradientLoss()).metrics
    single = small_policy()
    steps = [single.update(BATCH, PolicyGradientLoss()).metrics for _ in range(2)]
    for name in ("loss/value", "loss/entropy", "loss/grad_norm"):
        assert figures[name] == pytest.approx((steps[0][name] + steps[1][name]) / 2, rel=1e-5)
    for name in figures:
        if name.startswith("mismatch/"):
            assert figures[name] == pytest.approx(steps[0][name], rel=1e-4), name


def test_ratios_bite_from_the_second_epoch_on() -> None:
    batch = replace(BATCH, behaviour_logprobs=small_policy().logprobs(BATCH))
    loss = ClippedLoss(clip_low=1e-3, clip_high=1e-3)
    assert small_policy().update(batch, loss).metrics["loss/clip_fraction"] == 0
    assert small_policy(num_epochs=2).update(batch, loss).metrics["loss/clip_fraction"] > 0.1


@pytest.mark.parametrize("logit_chunk", [1000, 3])
def test_the_gradient_of_an_entropy_bonus_is_that_of_the_plain_formula(logit_chunk: int) -> None:
    model, plain = small_model(), small_model()
    silent = replace(BATCH, advantages=torch.zeros_like(BATCH.advantages))
    small_policy(model, logit_chunk=logit_chunk, has_entropy_gradient=True).update(
        silent, ClippedLoss(entropy_weight=0.5)
    )
    entropies = []
    for ids, mask in SEQUENCES:
        logprobs = plain(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        entropies += [entropy[place - 1] for place, bit in enumerate(mask) if bit]
    (-0.5 * torch.stack(entropies).mean()).backward()
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_an_entropy_bonus_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="the entropies carry no gradient"):
        small_policy().update(BATCH, ClippedLoss(entropy_weight=0.5))


def test_the_reference_is_scored_once_an_update_and_never_moves() -> None:
    reference = small_model(seed=5)
    before = {name: weight.clone() for name, weight in reference.state_dict().items()}
    expected = small_policy(small_model(seed=5)).logprobs(BATCH)
    made = small_policy(reference=reference, num_epochs=2)
    passes, loss = forward_passes(reference), Recorder()
    made.update(BATCH, loss)
    assert passes == [20]
    for batch in loss.batches:
        assert batch.reference_logprobs is not None
        found = batch.reference_logprobs[batch.loss_mask]
        torch.testing.assert_close(found, expected[expected_places(batch)], rtol=0, atol=1e-5)
    assert all(torch.equal(before[name], weight) for name, weight in reference.state_dict().items())
    assert not any(parameter.requires_grad for parameter in reference.parameters())


def test_a_heavy_kl_term_holds_the_policy_at_the_reference() -> None:
    drift = {}
    for kl_weight in (0.0, 10.0):
        made = small_policy(reference=small_model(), learning_rate=3e-3, num_epochs=20)
        made.update(BATCH, ClippedLoss(kl_weight=kl_weight, clip_high=math.inf))
        drift[kl_weight] = (made.logprobs(BATCH) - small_policy().logprobs(BATCH)).abs().mean().item()
    assert drift[10.0] < drift[0.0] / 2


def test_a_loss_with_a_kl_term_but_no_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss\.kl_weight=0\.1: the batch has no log-probs of a reference policy"):
        small_policy().update(BATCH, ClippedLoss(kl_weight=0.1))


def test_what_is_not_finite_in_a_later_step_keeps_the_earlier_ones() -> None:
    class SecondFails(Recorder):
        def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
            output = super().__call__(policy_logprobs_N, batch, entropy_N)
            return replace(output, loss=output.loss * (math.nan if len(self.batches) == 2 else 1))

    made, alone = small_policy(num_epochs=2), small_policy()
    with pytest.raises(
        FloatingPointError, match=r"optimiser step 2 of 2 was not taken: the loss of sequences \[0, 1, 2, 3\] is nan"
    ):
        made.update(BATCH, SecondFails())
    alone.update(BATCH, PolicyGradientLoss())
    assert all(torch.equal(weight, alone.weights()[name]) for name, weight in made.weights().items())
