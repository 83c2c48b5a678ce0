"""The longest update: what it holds, what it measures, and what running out of memory looks like."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tiny_models import VOCAB_SIZE, PolicyGradientLoss, small_policy
from turnwise.model.prefix_tree import micro_batches
from turnwise.preflight.finding import Finding, Verdict
from turnwise.preflight.longest import check_longest, longest_batch
from turnwise.preflight.memory import free_bytes, measured_peak, resident_bytes, total_bytes
from turnwise.protocols import PolicyLoss
from turnwise.types import LossOutput, TokenBatch

CPU = torch.device("cpu")
MIB = 2**20


@dataclass
class Greedy:
    """A loss that asks a CPU for more memory than there can be."""

    def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
        torch.empty(2**50)
        return PolicyGradientLoss()(policy_logprobs_N, batch)


@dataclass
class Tight:
    """A loss for which micro-batches beyond some tokens do not fit, as on a GPU."""

    max_tokens: int
    sizes: list[int] = field(default_factory=list)

    def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
        self.sizes.append(batch.token_ids.numel())
        if batch.token_ids.numel() > self.max_tokens:
            raise torch.OutOfMemoryError("out of memory")
        return PolicyGradientLoss()(policy_logprobs_N, batch)


def found(loss: PolicyLoss, token_budget: int = 64) -> Finding:
    finding = Finding("longest")
    batch = longest_batch(token_budget=token_budget, max_tokens=16, vocab_size=VOCAB_SIZE)
    check_longest(small_policy(token_budget=token_budget), batch, loss=loss, device=CPU, finding=finding)
    return finding


@pytest.mark.parametrize(
    ("token_budget", "max_tokens", "lengths"),
    [(64, 16, [16] * 4), (70, 16, [16, 16, 16, 16, 6]), (65, 16, [16] * 4), (10, 24, [24]), (16, 16, [16])],
)
def test_each_micro_batch_is_as_large_as_it_may_be(token_budget: int, max_tokens: int, lengths: list[int]):
    batch = longest_batch(token_budget=token_budget, max_tokens=max_tokens, vocab_size=50, num_minibatches=2)
    parts = batch.split(2)
    assert len(parts) == 2
    for part in parts:
        cut = micro_batches(part, token_budget)
        assert [part.cu_seqlens.diff()[sequences].tolist() for sequences in cut] == [lengths, lengths]
    assert batch.loss_mask.sum() == 2 * 2 * (sum(lengths) - len(lengths)), "all but the first token of each"


def test_it_passes_says_what_it_took_and_leaves_nothing():
    policy = small_policy(token_budget=64)
    before = {name: tensor.clone() for name, tensor in policy.weights().items()}
    finding = Finding("longest")
    batch = longest_batch(token_budget=64, max_tokens=16, vocab_size=VOCAB_SIZE)
    taken_s = check_longest(policy, batch, loss=PolicyGradientLoss(), device=CPU, finding=finding)
    assert finding.verdict is Verdict.passed
    assert f"128 tokens in 8 sequences of up to 16: {taken_s:.3g} s, at most " in finding.lines[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.weights().items())
    assert policy.state_dict()["state"] == {}


def test_a_cpu_without_memory():
    finding = found(Greedy())
    assert finding.verdict is Verdict.failed
    assert "memory ran out in an update with 128 tokens" in finding.lines[0]
    assert "trainer.token_budget" in finding.remedies[0]


def test_an_update_that_fits_only_by_halves():
    loss = Tight(max_tokens=40)
    finding = found(loss)
    assert max(loss.sizes) == 64, "the whole budget was tried"
    assert finding.verdict is Verdict.failed
    assert "went on with half of trainer.token_budget" in finding.lines[-1]


def test_an_update_that_does_not_fit_by_halves_either():
    finding = found(Tight(max_tokens=20))
    assert finding.verdict is Verdict.failed
    assert "memory ran out" in finding.lines[0]


def test_other_errors_are_not_taken_for_lack_of_memory():
    @dataclass
    class Broken:
        def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
            raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="a shape is wrong"):
        found(Broken())


def test_the_peak_of_a_cpu_is_what_was_held_in_between():
    with measured_peak(CPU) as before:
        pass
    with measured_peak(CPU) as peak:
        held = torch.ones(64 * MIB // 4)
        del held
    if peak.is_of_process:
        pytest.skip("this container does not let a process forget its peak")
    assert before.num_bytes + 50 * MIB < peak.num_bytes < before.num_bytes + 100 * MIB
    assert resident_bytes() <= peak.num_bytes
    assert 0 < free_bytes(CPU) <= total_bytes(CPU)
