"""Engine and trainer find the same log-probs for the same tokens."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P, truncates
from turnwise.preflight.finding import Finding
from turnwise.protocols import Policy
from turnwise.types import TokenBatch


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far two log-probs of a token may lie apart, in nats; their mean distance; what share may be further apart."""

    each: float
    mean: float
    exempt_share: float = 0.0

    def hold(self, distances_L: Tensor) -> bool:
        """Whether the distances of some tokens are those of rounding."""
        beyond = (distances_L > self.each).double().mean().item()
        return beyond <= self.exempt_share and distances_L.mean().item() <= self.mean

    @classmethod
    def of(cls, dtype: torch.dtype, *, is_truncated: bool) -> "Bounds":
        """In float32 those of docs/ARCHITECTURE.md, in half precision what rounding does.

        Where top-k or top-p are set, rounding can put a token on the other side of their edge.
        """
        if dtype is not torch.float32:
            return cls(each=0.5, mean=0.05, exempt_share=0.02)
        return cls(each=1e-3, mean=1e-2, exempt_share=0.02) if is_truncated else cls(each=1e-3, mean=1e-4)


def distances(policy: Policy, batch: TokenBatch) -> Tensor:
    """`|trainer - engine|` of every loss token, nats, `[L]` float64 on the CPU."""
    own = policy.logprobs(batch)[batch.loss_mask].double().cpu()
    return (own - batch.behaviour_logprobs[batch.loss_mask].double().cpu()).abs()


def check_agreement(policy: Policy, batch: TokenBatch, bounds: Bounds, finding: Finding) -> None:
    """The trainer's log-probs of sampled tokens are those that the engine recorded, sampling replayed.

    Args:
        policy: With the weights that the engine sampled by.
        batch: Sampled tokens with the engine's log-probs.
        bounds: What rounding may do.
        finding: Where to say it.
    """
    apart = distances(policy, batch)
    sampling = f"temperature {batch.temperature:g}"
    is_truncated = truncates(top_k=batch.top_k, top_p=batch.top_p)
    if is_truncated:
        sampling += f", top_k {batch.top_k}, top_p {batch.top_p:g}"
    finding.note(
        f"{apart.numel()} tokens at {sampling}: apart by {apart.mean():.1e} nats in the mean and {apart.max():.1e} at "
        f"most, of {bounds.each:g}"
    )
    if not bounds.hold(apart):
        why = _explanation(policy, batch, bounds)
        finding.fail(
            f"the engine's log-probs are not the trainer's{why}",
            "the ratio of an update would not begin at 1: engine and trainer must have the same weights, precision "
            "(trainer.dtype), temperature, rollout.top_k and rollout.top_p",
        )
        return
    if beyond := int((apart > bounds.each).sum()):
        finding.note(f"{beyond} of them are further apart, by rounding: mismatch/log_ratio_max will show such")
    if is_truncated:
        plain = distances(policy, replace(batch, top_k=NO_TOP_K, top_p=NO_TOP_P))
        finding.note(f"without top_k and top_p the trainer would be {plain.mean():.1e} apart: they are replayed")


def _explanation(policy: Policy, batch: TokenBatch, bounds: Bounds) -> str:
    """What the engine seems to leave out, where that alone explains it."""
    plain = replace(batch, top_k=NO_TOP_K, top_p=NO_TOP_P)
    suspects = {
        "top_k and top_p": plain,
        "the temperature": replace(batch, temperature=1.0),
        "temperature, top_k and top_p": replace(plain, temperature=1.0),
    }
    for name, other in suspects.items():
        if bounds.hold(distances(policy, other)):
            return f": they are those without {name}"
    return ""
