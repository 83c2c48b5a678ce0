import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tiny_models import (
    VOCAB_SIZE,
    PolicyGradientLoss,
    reference_logprobs,
    small_model,
    small_policy,
    token_batch,
)
from turnwise.model.scorer import TokenScorer
from turnwise.types import LossOutput, TokenBatch

# Lengths 4, 7, 2, 7; prompt and tool tokens (mask 0) surround sampled ones.
SEQUENCES = (
    ((20, 21, 22, 23), (0, 0, 1, 1)),
    ((30, 31, 32, 33, 34, 35, 36), (0, 1, 1, 0, 0, 1, 1)),
    ((40, 41), (0, 1)),
    ((50, 51, 52, 53, 54, 55, 56), (0, 0, 0, 0, 1, 1, 1)),
)


def gradients(batch: TokenBatch, **settings: Any) -> tuple[list[Tensor], dict[str, float]]:
    model = small_model()
    metrics = small_policy(model, **settings).update(batch, PolicyGradientLoss()).metrics
    return [parameter.grad for parameter in model.parameters()], dict(metrics)


def copy_of(weights: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in weights.items()}


def test_logprobs_are_those_of_one_sequence_at_a_time_and_zero_elsewhere() -> None:
    for temperature in (1.0, 0.6):
        batch = token_batch(SEQUENCES, temperature)
        found = small_policy(token_budget=14, logit_chunk=2).logprobs(batch)
        expected = torch.cat([reference_logprobs(small_model(), ids, temperature) for ids, _ in SEQUENCES])
        torch.testing.assert_close(found.double(), expected * batch.loss_mask, rtol=0, atol=1e-5)
        assert not found.requires_grad


def test_uniform_logits_have_logprob_and_entropy_of_the_vocabulary() -> None:
    model = small_model(tie_word_embeddings=False)
    torch.nn.init.zeros_(model.lm_head.weight)
    made = small_policy(model)
    batch = token_batch(SEQUENCES)
    assert made.logprobs(batch)[batch.loss_mask].tolist() == pytest.approx([-math.log(VOCAB_SIZE)] * 10)
    assert made.update(batch, PolicyGradientLoss()).metrics["loss/entropy"] == pytest.approx(math.log(VOCAB_SIZE))


@pytest.mark.parametrize("token_budget", [1, 8, 14])
@pytest.mark.parametrize("logit_chunk", [1, 3, 1000])
def test_the_gradient_does_not_depend_on_how_the_batch_is_cut(token_budget: int, logit_chunk: int) -> None:
    batch = token_batch(SEQUENCES, temperature=0.8)
    whole, expected = gradients(batch)
    parts, metrics = gradients(batch, token_budget=token_budget, logit_chunk=logit_chunk)
    for part, full in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, full, rtol=1e-4, atol=1e-6)
    for name in ("loss/value", "loss/entropy", "loss/grad_norm"):
        assert metrics[name] == pytest.approx(expected[name], rel=1e-4), name


def test_the_gradient_is_that_of_the_plain_formula() -> None:
    batch = token_batch(SEQUENCES)
    model = small_model()
    losses = []
    for (ids, bits), advantages in zip(SEQUENCES, batch.advantages.split([4, 7, 2, 7]), strict=True):
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        losses += [-advantages[n] * logprobs[n - 1, ids[n]] for n, bit in enumerate(bits) if bit]
    (torch.stack(losses).sum() / 10).backward()
    found, _ = gradients(batch)
    for part, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(part, parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_gradient_alone_leaves_everything_as_it_was() -> None:
    batch, model = token_batch(SEQUENCES), small_model()
    made, before = small_policy(model, token_budget=14), copy_of(model.state_dict())
    found = made.gradient(batch, PolicyGradientLoss())
    expected, _ = gradients(batch)
    torch.testing.assert_close(found, torch.cat([part.flatten() for part in expected]), rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(bool((model.state_dict()[name] == tensor).all()) for name, tensor in before.items())
    assert not made.state_dict()["state"]


def test_without_loss_tokens_the_gradient_is_zero() -> None:
    found = small_policy().gradient(token_batch([((5, 6, 7), (0, 0, 0))]), PolicyGradientLoss())
    assert found.numel() == sum(parameter.numel() for parameter in small_model().parameters())
    assert not found.any()


def test_shared_prompts_and_micro_batches_are_reported() -> None:
    siblings = (((20, 21, 22, 23, 24), (0, 0, 0, 1, 1)), ((20, 21, 22, 25), (0, 0, 0, 1)), ((40, 41), (0, 1)))
    _, metrics = gradients(token_batch(siblings))
    assert metrics["update/num_micro_batches"] == 1
    assert metrics["update/shared_fraction"] == pytest.approx(3 / 11)  # the second prompt, of 5 + 4 + 2 tokens
    _, metrics = gradients(token_batch(siblings), token_budget=5)
    assert metrics["update/num_micro_batches"] == 3
    assert metrics["update/shared_fraction"] == 0


def test_where_memory_runs_out_the_step_is_begun_anew_in_smaller_parts_but_only_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = token_batch(SEQUENCES)
    expected = small_policy().gradient(batch, PolicyGradientLoss())
    model = small_model()
    made = small_policy(model, token_budget=14)
    score, sizes, failed = TokenScorer.score, list[int](), list[weakref.ref[Tensor]]()

    def score_up_to_7(scorer: TokenScorer, part: TokenBatch, **options: Any) -> Any:
        sizes.append(part.token_ids.numel())
        assert all(tensor() is None for tensor in failed)  # memory is free again before the second attempt
        if sizes[-1] > 7:
            activations = torch.zeros(1)
            failed.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("made up")
        return score(scorer, part, **options)

    monkeypatch.setattr(TokenScorer, "score", score_up_to_7)
    made.update(batch, PolicyGradientLoss())
    assert sizes == [13, 4, 7, 2, 7]  # 4 + 7 + 2 of 14 tokens are too many; then 7 at a time, from the beginning
    assert "trainer.token_budget=7" in caplog.text
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(TokenScorer, "score", lambda *_, **__: score_up_to_7(made._scorer, batch))
    with pytest.raises(torch.OutOfMemoryError):
        made.update(batch, PolicyGradientLoss())


def test_the_first_step_moves_each_weight_by_the_learning_rate_against_its_gradient() -> None:
    model = small_model()
    before = copy_of(dict(model.named_parameters()))
    small_policy(model, learning_rate=1e-3).update(token_batch(SEQUENCES), PolicyGradientLoss())
    for name, parameter in model.named_parameters():
        # AdamW's first step is lr * g / (|g| + eps), eps = 1e-8.
        gradient = parameter.grad
        expected = -1e-3 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach() - before[name], expected, rtol=0, atol=1e-6)


def test_a_new_learning_rate_holds_from_the_next_update_on() -> None:
    model = small_model()
    made = small_policy(model)
    before = copy_of(made.weights())
    made.set_learning_rate(0.0)
    made.update(token_batch(SEQUENCES), PolicyGradientLoss())
    assert all(tensor.equal(before[name]) for name, tensor in made.weights().items())


def test_large_gradients_are_scaled_down_and_reported_as_they_were() -> None:
    whole, free = gradients(token_batch(SEQUENCES))
    clipped, metrics = gradients(token_batch(SEQUENCES), max_grad_norm=free["loss/grad_norm"] / 4)
    assert metrics["loss/grad_norm"] == pytest.approx(free["loss/grad_norm"])
    for part, full in zip(clipped, whole, strict=True):
        torch.testing.assert_close(part, full / 4, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sequences", [(), (((20, 21), (0, 0)), ((30, 31, 32), (0, 0, 0)))])
def test_without_loss_tokens_nothing_happens(sequences: Sequence[Any]) -> None:
    made = small_policy(weight_decay=0.5)
    before = copy_of(made.weights())
    metrics = dict(made.update(token_batch(sequences), PolicyGradientLoss()).metrics)
    del metrics["time/update_s"]
    assert metrics.pop("update/num_steps") == 1
    names = ("loss/value", "loss/grad_norm", "update/num_micro_batches", "update/shared_fraction")
    assert metrics == dict.fromkeys(names, 0), "no entropy and no mismatch of nothing"
    assert all(tensor.equal(before[name]) for name, tensor in made.weights().items())
    assert made.logprobs(token_batch(sequences)).abs().sum() == 0


class SquareRootOfZero:
    """A finite loss with an infinite gradient."""

    def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
        return LossOutput(loss=(policy_logprobs_N - policy_logprobs_N.detach()).square().sum().sqrt(), metrics={})


@pytest.mark.parametrize(
    ("loss", "message"),
    [(PolicyGradientLoss(scale=math.nan), "the loss of sequences .* is nan"), (SquareRootOfZero(), "gradient's norm")],
)
def test_what_is_not_finite_raises_before_the_weights_change(loss: Any, message: str) -> None:
    made = small_policy()
    before = copy_of(made.weights())
    with pytest.raises(FloatingPointError, match=message):
        made.update(token_batch(SEQUENCES), loss)
    assert all(tensor.equal(before[name]) for name, tensor in made.weights().items())
    assert made.state_dict()["state"] == {}
    # Nothing of the failed step is left in the next one.
    healthy = small_policy()
    for one in (made, healthy):
        one.update(token_batch(SEQUENCES), PolicyGradientLoss())
    assert all(tensor.equal(healthy.weights()[name]) for name, tensor in made.weights().items())


def test_a_sequence_cannot_begin_with_a_loss_token() -> None:
    with pytest.raises(ValueError, match="begins with a loss token"):
        small_policy().update(token_batch([((20, 21), (1, 1))]), PolicyGradientLoss())


class LargestLogits(TorchDispatchMode):
    """Records the most elements of any tensor whose last dimension is the vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and value.ndim and value.shape[-1] == VOCAB_SIZE:
                self.num_elements = max(self.num_elements, value.numel())
        return result


def test_no_tensor_over_the_vocabulary_is_larger_than_a_chunk() -> None:
    # 4 x 50 loss tokens; hidden size 32, so that weight gradients [32, V] are smaller than a chunk.
    batch = token_batch([(tuple(range(20 + row, 71 + row)), (0, *[1] * 50)) for row in range(4)])
    made = small_policy(logit_chunk=40)
    with LargestLogits() as largest:
        made.update(batch, PolicyGradientLoss())
        made.logprobs(batch)
    assert largest.num_elements == 40 * VOCAB_SIZE


def test_no_logits_are_kept_for_the_backward_pass() -> None:
    batch = token_batch([(tuple(range(20 + row, 71 + row)), (0, *[1] * 50)) for row in range(4)])
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        small_policy(logit_chunk=40).update(batch, PolicyGradientLoss())
    assert kept
    assert not [tensor for tensor in kept if tensor.ndim and tensor.shape[-1] == VOCAB_SIZE and tensor.shape[0] == 40]


def test_a_saved_policy_is_a_complete_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = small_policy()
    made.update(token_batch(SEQUENCES), PolicyGradientLoss())
    made.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(tensor.equal(made.weights()[name]) for name, tensor in loaded.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


def test_a_restored_policy_goes_on_bit_for_bit(tmp_path: Path) -> None:
    batch, loss = token_batch(SEQUENCES), PolicyGradientLoss()
    made = small_policy()
    made.update(batch, loss)
    made.save_pretrained(tmp_path)
    torch.save(made.state_dict(), tmp_path / "optimizer.pt")
    made.update(batch, loss)

    restored = small_policy(small_model(seed=1))
    restored.load_pretrained(tmp_path)
    restored.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    restored.update(batch, loss)
    assert all(tensor.equal(made.weights()[name]) for name, tensor in restored.weights().items())


def test_weights_carry_no_gradient_and_follow_the_updates() -> None:
    made = small_policy()
    weights = made.weights()
    before = copy_of(weights)
    made.update(token_batch(SEQUENCES), PolicyGradientLoss())
    assert not any(tensor.requires_grad for tensor in weights.values())
    assert not weights["model.embed_tokens.weight"].equal(before["model.embed_tokens.weight"])


def test_a_model_that_changes_its_logits_behind_the_head_is_refused() -> None:
    with pytest.raises(ValueError, match="GraniteForCausalLM changes its logits"):
        small_policy(small_model(family="Granite", logits_scaling=8.0))
