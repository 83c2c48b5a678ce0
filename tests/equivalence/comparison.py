"""Losses with their gradients, and a record of how far ours and a peer's are apart."""

from collections.abc import Callable

from torch import Tensor

from equivalence.ragged_step import RaggedStep
from turnwise.loss.clipped import ClippedLoss

LARGEST: dict[str, float] = {}
"""Largest absolute difference of each comparison in this run; conftest.py prints it."""


def assert_equal(name: str, ours: Tensor, theirs: Tensor, *, tolerance: float) -> None:
    """Compares two tensors by absolute difference and keeps the largest under the name of the comparison."""
    assert ours.shape == theirs.shape, f"{name}: ours has shape {tuple(ours.shape)}, theirs {tuple(theirs.shape)}"
    difference = float((ours.double() - theirs.double()).abs().max())
    LARGEST[name] = max(LARGEST.get(name, 0.0), difference)
    assert difference <= tolerance, f"{name}: differs by {difference:.1e}, tolerance {tolerance:.0e}"


def with_gradient(step: RaggedStep, loss: Callable[[Tensor], Tensor], at: str = "policy") -> tuple[Tensor, Tensor]:
    """Value and gradient `[B, T]` of a loss of per-token log-probs, at those of the named policy."""
    logprobs_BT = step.logprobs(at).requires_grad_()
    value = loss(logprobs_BT)
    value.backward()
    assert logprobs_BT.grad is not None
    return value.detach(), logprobs_BT.grad


def turnwise_loss(
    loss: ClippedLoss, step: RaggedStep, advantages_BT: Tensor, at: str = "policy"
) -> tuple[Tensor, Tensor]:
    """The same of our loss, which sees the step packed; the entropies are stood in for by `-log policy`."""
    batch = step.token_batch(advantages_BT)

    def value(logprobs_BT: Tensor) -> Tensor:
        logprobs_N = step.pack(logprobs_BT, 0.0)
        return loss(logprobs_N, batch, -logprobs_N).loss

    return with_gradient(step, value, at)
