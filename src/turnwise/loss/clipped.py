"""The clipped policy-gradient loss over packed tokens, with its two regularisers and its correction."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from turnwise.core.correction import Correction, correction_weights
from turnwise.core.kl import KlEstimator, kl_estimate
from turnwise.core.ranges import check_choice, check_weight
from turnwise.core.ratios import RatioLevel, clipped_surrogate, dual_clipped, importance_ratio
from turnwise.core.segments import Reduction, pair_index, reduction_weights
from turnwise.types import LossOutput, TokenBatch

_CHOICES = {
    "ratio_level": RatioLevel,
    "reduction": Reduction,
    "kl_estimator": KlEstimator,
    "correction": Correction,
    "correction_level": RatioLevel,
}


@dataclass(frozen=True, kw_only=True)
class ClippedLoss:
    """The loss of a step, a weighted sum over its sampled tokens:

        sum_t weight_t (-rho_t min(w_t A_t, clip(w_t, 1 - clip_low, 1 + clip_high) A_t)
                        + kl_weight kl_t - entropy_weight entropy_t)

    The objective of docs/PAPER.md section 6 ([O], supported by one [3]), the same for GTPO (arXiv 2511.14846) and GRPO
    (arXiv 2402.03300). Prompt and tool tokens never enter. `w_t` is the ratio of the policy to the proximal policy,
    the one that the update began with; in a step that begins with it, the only one of an on-policy update, `w_t` is
    exactly 1 and the gradient that of `A_t log policy`. `rho_t` is the weight that the correction makes of the ratio of
    the proximal policy to the behaviour policy; it has no gradient. The regularisers are taken as they are at the
    sampled tokens, without a ratio, as in GRPO.

    Losses and metrics of the parts of a step (whole sequences, `TokenBatch.select`) add up to those of the whole,
    because every average is taken with the step's own counts, whatever the correction leaves out.

    Metrics: `loss/value`; `loss/policy`, the part of the surrogate in it; `loss/clip_fraction`, loss tokens whose
    clipped term holds. Where the field is in use also `loss/dual_clip_fraction`, tokens whose dual clip holds;
    `loss/kl`, mean estimate per loss token, in nats; `loss/correction_weight`, mean rho; `loss/correction_zeroed`,
    loss tokens of which nothing is left.
    """

    clip_low: float = 0.2
    """Width of the trust region below ratio 1; 0.2 as in PPO and GRPO, 3e-4 at sequence level (GSPO)."""

    clip_high: float = 0.2
    """Width above ratio 1; 0.28 is DAPO's (arXiv 2503.14476), 4e-4 GSPO's, `inf` leaves the upper side open."""

    dual_clip: float = math.inf
    """Ratio beyond which a token of negative advantage pushes no further (arXiv 1912.09729: 3); `inf` turns it off."""

    ratio_level: RatioLevel = RatioLevel.token
    """Tokens that share an importance ratio: single ones, a turn's (our analogue), a sequence's (GSPO, 2507.18071)."""

    reduction: Reduction = Reduction.token
    """What the loss averages over: tokens (DAPO), turns, sequences (GRPO) or a constant length (Dr.GRPO 2503.20783)."""

    constant_length: int = 1024
    """Tokens of a nominal sequence; read by `reduction=constant` only."""

    kl_weight: float = 0.0
    """Weight of the divergence from the reference policy, the starting weights; above 0 they are held in memory."""

    kl_estimator: KlEstimator = KlEstimator.k3
    """Estimate of it: k3 as in GRPO, a gradient towards KL(reference || policy); k2, towards KL(policy || reference);
    k1, no gradient but noise, for comparison (`turnwise.core.kl`)."""

    entropy_weight: float = 0.0
    """Weight of the bonus for the entropy of the policy at the sampled tokens."""

    correction: Correction = Correction.none
    """What makes up for engine and trainer disagreeing: truncated weights, masked ones (IcePop), or a rejection."""

    correction_level: RatioLevel = RatioLevel.token
    """Tokens that share a correction: single ones, a turn's (our own), a sequence's."""

    correction_low: float = 0.5
    """Least ratio that `mask` and `geometric` let pass; 0.5 is IcePop's (arXiv 2510.18855)."""

    correction_high: float = 2.0
    """Largest ratio that they let pass, and at which `truncate` cuts; IcePop has 5."""

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            check_choice(name, getattr(self, name), known)
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"clip_low={self.clip_low}: expected 0 to 1")
        if not self.clip_high >= 0:
            raise ValueError(f"clip_high={self.clip_high}: expected 0 or more")
        if not self.dual_clip > 1:
            raise ValueError(f"dual_clip={self.dual_clip}: expected more than 1")
        if self.constant_length < 1:
            raise ValueError(f"constant_length={self.constant_length}: expected 1 or more")
        for name in ("kl_weight", "entropy_weight"):
            check_weight(name, getattr(self, name))
        if not 0 <= self.correction_low <= 1:
            raise ValueError(f"correction_low={self.correction_low}: expected 0 to 1")
        if not self.correction_high >= 1:
            raise ValueError(f"correction_high={self.correction_high}: expected 1 or more")

    def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
        """Loss of the batch's part of its step.

        Args:
            policy_logprobs_N: Log-probabilities of `batch.token_ids` under the policy; read at loss tokens only.
            batch: Whole sequences of the step; without proximal log-probs the policy is the proximal policy.
            entropy_N: Entropies of the policy where it predicts each token, in nats; read with an entropy weight only.

        Raises:
            ValueError: A tensor does not fit the batch, the batch has more loss tokens than its step, or what a term
                needs is not there: reference log-probs, entropies, or the gradient of the entropies.
        """
        _check(policy_logprobs_N, entropy_N, batch)
        mask = batch.loss_mask  # what follows is about loss tokens only
        advantages = batch.advantages[mask]
        policy = policy_logprobs_N[mask].to(torch.promote_types(policy_logprobs_N.dtype, torch.float32))
        proximal = policy.detach() if batch.proximal_logprobs is None else batch.proximal_logprobs[mask]
        sequence = batch.sequence_index[mask]
        turn = pair_index(sequence, batch.turn_index[mask])
        weights = reduction_weights(
            turn,
            sequence,
            reduction=self.reduction,
            num_tokens=batch.num_loss_tokens,
            num_turns=batch.num_loss_turns,
            num_sequences=batch.num_loss_sequences,
            constant_length=self.constant_length,
        ).to(policy)

        ratio = importance_ratio(policy - proximal, turn, sequence, self.ratio_level)
        surrogate, is_clipped = clipped_surrogate(ratio, advantages, self.clip_low, self.clip_high)
        shares = {"loss/clip_fraction": is_clipped}  # what is averaged over the loss tokens of the step
        if self.dual_clip < math.inf:
            surrogate, shares["loss/dual_clip_fraction"] = dual_clipped(surrogate, advantages, self.dual_clip)
        if self.correction != Correction.none:
            correction = correction_weights(
                proximal - batch.behaviour_logprobs[mask],
                turn,
                sequence,
                correction=self.correction,
                level=self.correction_level,
                low=self.correction_low,
                high=self.correction_high,
            )
            surrogate = surrogate * correction.to(surrogate)
            shares |= {"loss/correction_weight": correction, "loss/correction_zeroed": correction == 0}
        loss = policy_loss = -(weights * surrogate).sum()
        if self.kl_weight:
            if batch.reference_logprobs is None:
                raise ValueError(f"loss.kl_weight={self.kl_weight}: the batch has no log-probs of a reference policy")
            kl = kl_estimate(self.kl_estimator, policy, batch.reference_logprobs[mask])
            loss = loss + self.kl_weight * (weights * kl).sum()
            shares["loss/kl"] = kl.detach()
        if self.entropy_weight:
            if entropy_N is None:
                raise ValueError(f"loss.entropy_weight={self.entropy_weight}: no entropies were given")
            if policy.requires_grad and not entropy_N.requires_grad:
                raise ValueError(f"loss.entropy_weight={self.entropy_weight}: the entropies carry no gradient")
            loss = loss - self.entropy_weight * (weights * entropy_N[mask]).sum()

        sums = [loss.detach().double(), policy_loss.detach().double()]
        sums += [share.double().sum() / max(batch.num_loss_tokens, 1) for share in shares.values()]
        figures = torch.stack(sums).tolist()  # one transfer from the device
        return LossOutput(loss=loss, metrics=dict(zip(("loss/value", "loss/policy", *shares), figures, strict=True)))


def _check(policy_logprobs_N: Tensor, entropy_N: Tensor | None, batch: TokenBatch) -> None:
    for name, tensor in (("policy_logprobs_N", policy_logprobs_N), ("entropy_N", entropy_N)):
        if tensor is not None and tensor.shape != batch.token_ids.shape:
            raise ValueError(
                f"{name} of shape {tuple(tensor.shape)}: "
                f"expected {tuple(batch.token_ids.shape)}, one for each token of the batch"
            )
    if (num_here := int(batch.loss_mask.sum())) > batch.num_loss_tokens:
        raise ValueError(f"num_loss_tokens={batch.num_loss_tokens}: the batch alone has {num_here}")
