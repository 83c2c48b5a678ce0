"""Log-probs and entropies of tokens from hidden states, without ever holding the logits of all of them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P, is_kept, truncates


class Scoring(NamedTuple):
    """How logits become log-probs.

    `chunk` is the number of tokens whose logits exist at the same time, `dtype` that of the matrix products.
    """

    chunk: int
    dtype: torch.dtype
    temperature: float = 1.0
    top_k: int = NO_TOP_K
    top_p: float = NO_TOP_P
    wants_entropy: bool = True


def token_logprobs(head: nn.Linear, hidden_LH: Tensor, targets_L: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy of the distribution that it is from, both `[L]` and at least float32.

    The distribution is softmax(logits / temperature) among the tokens that top-k and top-p leave. The target counts as
    one of them even where rounding puts it just outside: it was sampled. Logits are computed chunk by chunk, and again
    in the backward pass instead of being kept, except where one chunk holds them all. Both outputs are differentiable.

    Args:
        head: Maps hidden states to logits.
        hidden_LH: Hidden states `[L, H]` of the tokens before the targets.
        targets_L: Token ids, int64.
        scoring: Options; without `wants_entropy` the entropies are zeros.
    """
    return _TokenLogprobs.apply(hidden_LH, head.weight, head.bias, targets_L, scoring)  # type: ignore[no-any-return]


class _TokenLogprobs(torch.autograd.Function):
    """With p the probabilities of a token's distribution, g the incoming gradient of its log-prob and e that of its
    entropy h, the gradient of the logits is `(g (onehot - p) - e p (log p + h)) / temperature`.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_LH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_L: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden_LH.dtype, torch.float32)
        logprobs_L = torch.empty(targets_L.shape, dtype=wide, device=hidden_LH.device)
        entropy_L = torch.zeros_like(logprobs_L)
        kept_PV = None
        with torch.autocast(hidden_LH.device.type, enabled=False):
            head = _cast(weight_VH, bias_V, scoring.dtype)
            for rows in _chunks(targets_L.numel(), scoring.chunk):
                centred_CV, probabilities_CV, log_sum_C = _distribution(hidden_LH[rows], targets_L[rows], head, scoring)
                chosen_C = centred_CV.gather(1, targets_L[rows, None]).squeeze(1)
                logprobs_L[rows] = chosen_C - log_sum_C
                if scoring.wants_entropy:
                    entropy_L[rows] = log_sum_C - torch.einsum("cv,cv->c", probabilities_CV, centred_CV)
                if targets_L.numel() <= scoring.chunk:
                    kept_PV = probabilities_CV
        ctx.scoring = scoring
        ctx.save_for_backward(hidden_LH, weight_VH, bias_V, targets_L, entropy_L, kept_PV)
        return logprobs_L, entropy_L

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden_LH, weight_VH, bias_V, targets_L, entropy_L, kept_PV = ctx.saved_tensors
        gradient_L, entropy_gradient_L = gradients
        scoring: Scoring = ctx.scoring
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        hidden_gradient = torch.empty_like(hidden_LH) if needs_hidden else None
        weight_gradient = torch.zeros_like(weight_VH) if needs_weight else None
        bias_gradient = torch.zeros_like(bias_V) if needs_bias else None
        has_entropy_gradient = scoring.wants_entropy and bool(entropy_gradient_L.any())
        with torch.autocast(hidden_LH.device.type, enabled=False):
            head = _cast(weight_VH, bias_V, scoring.dtype)
            for rows in _chunks(targets_L.numel(), scoring.chunk):
                p_CV = kept_PV
                if p_CV is None:
                    _, p_CV, _ = _distribution(hidden_LH[rows], targets_L[rows], head, scoring)
                slope_CV = None
                if has_entropy_gradient:
                    slope_CV = torch.xlogy(p_CV, p_CV).addcmul_(p_CV, entropy_L[rows, None])
                # In place, for these are the largest tensors of an update: a second backward pass would be an error.
                logits_gradient = p_CV.mul_(-gradient_L[rows, None] / scoring.temperature)
                logits_gradient.scatter_add_(1, targets_L[rows, None], gradient_L[rows, None] / scoring.temperature)
                if slope_CV is not None:
                    logits_gradient -= slope_CV.mul_(entropy_gradient_L[rows, None] / scoring.temperature)
                logits_gradient = logits_gradient.to(scoring.dtype)
                if hidden_gradient is not None:
                    hidden_gradient[rows] = (logits_gradient @ head[0]).to(hidden_gradient.dtype)
                if weight_gradient is not None:
                    weight_gradient += logits_gradient.T @ hidden_LH[rows].to(scoring.dtype)
                if bias_gradient is not None:
                    bias_gradient += logits_gradient.sum(0)
        return hidden_gradient, weight_gradient, bias_gradient, None, None


def _distribution(
    hidden_CH: Tensor, targets_C: Tensor, head: tuple[Tensor, Tensor | None], scoring: Scoring
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits less their maximum `[C, V]`, 0 on tokens that cannot be sampled; probabilities; log of the sum of exp."""
    logits = nn.functional.linear(hidden_CH.to(scoring.dtype), *head)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if scoring.temperature != 1:
        logits /= scoring.temperature
    lost_CV = None
    if truncates(top_k=scoring.top_k, top_p=scoring.top_p):
        kept_CV = is_kept(logits, top_k=scoring.top_k, top_p=scoring.top_p)
        lost_CV = ~kept_CV.scatter_(1, targets_C[:, None], True)
        logits.masked_fill_(lost_CV, -torch.inf)
    logits -= logits.amax(-1, keepdim=True)
    probabilities = logits.exp()
    sums = probabilities.sum(-1)
    probabilities /= sums[:, None]
    if lost_CV is not None:
        logits.masked_fill_(lost_CV, 0)
    return logits, probabilities, sums.log()


def _cast(weight_VH: Tensor, bias_V: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weight_VH.to(dtype), None if bias_V is None else bias_V.to(dtype)


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
