"""The clipped policy-gradient loss over packed tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from turnwise.core.kl import kl_k3
from turnwise.core.ratios import RatioLevel, clipped_surrogate, importance_ratio
from turnwise.core.segments import Reduction, pair_index, reduction_weights
from turnwise.types import LossOutput, TokenBatch


@dataclass(frozen=True, kw_only=True)
class ClippedLoss:
    """`-sum_t weight_t min(w_t A_t, clip(w_t, 1 - clip_low, 1 + clip_high) A_t)` over the sampled tokens of a step.

    The objective of docs/PAPER.md section 6 ([O], supported by one [3]), the same for GTPO (arXiv 2511.14846) and GRPO
    (arXiv 2402.03300). The proximal policy is the behaviour policy: one update per batch of rollouts. Prompt and tool
    tokens never enter. Losses and metrics of the parts of a step (whole sequences, `TokenBatch.select`) add up to those
    of the whole, because every average is taken with the step's own counts.

    Metrics: `loss/value`; `loss/clip_fraction`, loss tokens whose clipped term holds; `mismatch/kl`, the k3 estimate of
    KL(behaviour || policy) per loss token, in nats; `mismatch/ratio_mean`, the mean token ratio policy / behaviour,
    whatever `ratio_level`: both compare the sampler with the policy as this update finds it, 0 and 1 when they agree.
    """

    clip_low: float = 0.2
    """Width of the trust region below ratio 1; 0.2 as in PPO and GRPO, 3e-4 at sequence level (GSPO)."""

    clip_high: float = 0.2
    """Width above ratio 1; 0.28 is DAPO's (arXiv 2503.14476), 4e-4 GSPO's, `inf` leaves the upper side open."""

    ratio_level: RatioLevel = RatioLevel.token
    """Tokens that share an importance ratio: single ones, a turn's (our analogue), a sequence's (GSPO, 2507.18071)."""

    reduction: Reduction = Reduction.token
    """What the loss averages over: tokens (DAPO), turns, sequences (GRPO) or a constant length (Dr.GRPO 2503.20783)."""

    constant_length: int = 1024
    """Tokens of a nominal sequence; read by `reduction=constant` only."""

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"clip_low={self.clip_low}: expected 0 to 1")
        if not self.clip_high >= 0:
            raise ValueError(f"clip_high={self.clip_high}: expected 0 or more")
        if self.constant_length < 1:
            raise ValueError(f"constant_length={self.constant_length}: expected 1 or more")

    def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
        """Loss of the batch's part of its step.

        Args:
            policy_logprobs_N: Log-probabilities of `batch.token_ids` under the policy; read at loss tokens only.
            batch: Whole sequences of the step.

        Raises:
            ValueError: The log-probs do not fit the batch, or the batch has more loss tokens than its step.
        """
        if policy_logprobs_N.shape != batch.token_ids.shape:
            raise ValueError(
                f"policy_logprobs_N of shape {tuple(policy_logprobs_N.shape)}: "
                f"expected {tuple(batch.token_ids.shape)}, one for each token of the batch"
            )
        mask = batch.loss_mask  # what follows is about loss tokens only
        behaviour = batch.behaviour_logprobs[mask]
        policy = policy_logprobs_N[mask].to(torch.promote_types(policy_logprobs_N.dtype, torch.float32))
        if policy.numel() > batch.num_loss_tokens:
            raise ValueError(f"num_loss_tokens={batch.num_loss_tokens}: the batch alone has {policy.numel()}")
        sequence = batch.sequence_index[mask]
        turn = pair_index(sequence, batch.turn_index[mask])
        ratio = importance_ratio(policy - behaviour, turn, sequence, self.ratio_level)
        surrogate, is_clipped = clipped_surrogate(ratio, batch.advantages[mask], self.clip_low, self.clip_high)
        weights = reduction_weights(
            turn,
            sequence,
            reduction=self.reduction,
            num_tokens=batch.num_loss_tokens,
            num_turns=batch.num_loss_turns,
            num_sequences=batch.num_loss_sequences,
            constant_length=self.constant_length,
        )
        loss = -(weights.to(surrogate) * surrogate).sum()
        with torch.no_grad():
            drawn, now = behaviour.double(), policy.double()
            sums = torch.stack([is_clipped.double().sum(), kl_k3(drawn, now).sum(), (now - drawn).exp().sum()])
            figures = torch.cat([loss.double().reshape(1), sums / max(batch.num_loss_tokens, 1)]).tolist()
        names = ("loss/value", "loss/clip_fraction", "mismatch/kl", "mismatch/ratio_mean")
        return LossOutput(loss=loss, metrics=dict(zip(names, figures, strict=True)))
