"""Log-probs and entropies of tokens from hidden states, without ever holding the logits of all of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P, is_kept, truncates

NUMBERS_IN_CACHE, NUMBERS_ON_GPU = 2**21, 2**26
"""Logits that are worked on in float32 at the same time."""


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


class CastHead(NamedTuple):
    """Weights `[V, H]` and bias `[V]` of an output layer in the precision of the products, without gradient."""

    weight_VH: Tensor
    bias_V: Tensor | None


def cast_head(head: nn.Linear, dtype: torch.dtype) -> CastHead:
    """The weights as they stand; they themselves where they have that precision."""
    return CastHead(head.weight.detach().to(dtype), None if head.bias is None else head.bias.detach().to(dtype))


def token_logprobs(
    head: nn.Linear, hidden_LH: Tensor, targets_L: Tensor, scoring: Scoring, cast: CastHead | None = None
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy of the distribution that it is from, both `[L]` and at least float32.

    The distribution is softmax(logits / temperature) among the tokens that top-k and top-p leave. The target counts as
    one of them even where rounding puts it just outside: it was sampled. Logits are computed chunk by chunk, and again
    in the backward pass instead of being kept, except where one chunk holds them all. Both outputs are differentiable.

    Args:
        head: Maps hidden states to logits.
        hidden_LH: Hidden states `[L, H]` of the tokens before the targets.
        targets_L: Token ids, int64.
        scoring: Options; without `wants_entropy` the entropies are zeros.
        cast: `head` in the precision of the products, for whoever scores by the same weights again and again.
    """
    cast = cast or cast_head(head, scoring.dtype)
    return _TokenLogprobs.apply(hidden_LH, head.weight, head.bias, targets_L, scoring, cast)  # type: ignore[no-any-return]


class _TokenLogprobs(torch.autograd.Function):
    """With p the probabilities of a token's distribution, g the incoming gradient of its log-prob and e that of its
    entropy h, the gradient of the logits is `(g (onehot - p) - e p (log p + h)) / temperature`.

    The logits of a chunk become its probabilities, and these its gradient, where they lie: in the precision of the
    products, and block by block in float32 on the way. Only the target's gradient is never made from a rounded p, of
    which little may be left beside 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_LH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_L: Tensor,
        scoring: Scoring,
        head: CastHead,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden_LH.dtype, torch.float32)
        logprobs_L = torch.empty(targets_L.shape, dtype=wide, device=hidden_LH.device)
        entropy_L = torch.zeros_like(logprobs_L)
        kept_LV = None
        with torch.autocast(hidden_LH.device.type, enabled=False):
            for chunk in _chunks(targets_L.numel(), scoring.chunk):
                logits_CV = nn.functional.linear(hidden_LH[chunk].to(scoring.dtype), *head)
                parts = (logits_CV, targets_L[chunk], logprobs_L[chunk], entropy_L[chunk])
                for logits_RV, targets_R, logprobs_R, entropy_R in _blocks(*parts):
                    centred_RV, probabilities_RV, log_sum_R = _distribution(logits_RV, targets_R, scoring)
                    logprobs_R.copy_(centred_RV.gather(1, targets_R[:, None]).squeeze(1) - log_sum_R)
                    if scoring.wants_entropy:
                        entropy_R.copy_(log_sum_R - torch.einsum("rv,rv->r", probabilities_RV, centred_RV))
                    logits_RV.copy_(probabilities_RV)
                if targets_L.numel() <= scoring.chunk:
                    kept_LV = logits_CV
        ctx.scoring, ctx.weight_dtype = scoring, weight_VH.dtype
        ctx.save_for_backward(hidden_LH, *head, targets_L, logprobs_L, entropy_L, kept_LV)
        return logprobs_L, entropy_L

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_LH, *head, targets_L, logprobs_L, entropy_L, kept_LV = ctx.saved_tensors
        scoring: Scoring = ctx.scoring
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        hidden_gradient = torch.empty_like(hidden_LH) if needs_hidden else None
        wide = torch.promote_types(ctx.weight_dtype, torch.float32)  # of sums over chunks
        weight_gradient: Tensor | None = None
        bias_gradient: Tensor | None = None
        if not targets_L.numel():  # zeros and not nothing: ranks that share the head add up what all of them found
            weight_gradient = torch.zeros_like(head[0], dtype=wide) if needs_weight else None
            bias_gradient = torch.zeros_like(head[1], dtype=wide) if needs_bias else None
        has_entropy_gradient = scoring.wants_entropy and bool(gradients[1].any())
        per_token = (targets_L, logprobs_L, entropy_L, *(gradient / scoring.temperature for gradient in gradients))
        with torch.autocast(hidden_LH.device.type, enabled=False):
            for chunk in _chunks(targets_L.numel(), scoring.chunk):
                hidden_CH = hidden_LH[chunk].to(scoring.dtype)
                # In place, for these are the largest tensors of an update: a second backward pass would be an error.
                logits_CV = nn.functional.linear(hidden_CH, *head) if kept_LV is None else kept_LV
                parts = (logits_CV, *(tensor[chunk] for tensor in per_token))
                for logits_RV, targets_R, logprobs_R, entropy_R, gradient_R, entropy_gradient_R in _blocks(*parts):
                    if kept_LV is None:
                        _, p_RV, _ = _distribution(logits_RV, targets_R, scoring)
                    else:
                        p_RV = logits_RV.to(logprobs_R.dtype)
                    slope_RV = None
                    if has_entropy_gradient:
                        slope_RV = torch.xlogy(p_RV, p_RV).addcmul_(p_RV, entropy_R[:, None])
                    p_RV.mul_(-gradient_R[:, None])
                    p_RV.scatter_(1, targets_R[:, None], (-gradient_R * torch.expm1(logprobs_R))[:, None])
                    if slope_RV is not None:
                        p_RV -= slope_RV.mul_(entropy_gradient_R[:, None])
                    logits_RV.copy_(p_RV)
                if hidden_gradient is not None:
                    hidden_gradient[chunk] = logits_CV @ head[0]
                if needs_weight:
                    weight_gradient = _sum(weight_gradient, logits_CV.T @ hidden_CH, wide)
                if needs_bias:
                    bias_gradient = _sum(bias_gradient, logits_CV.sum(0), wide)
        sums = (None if one is None else one.to(ctx.weight_dtype) for one in (weight_gradient, bias_gradient))
        return hidden_gradient, *sums, None, None, None


def _distribution(logits_RV: Tensor, targets_R: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor, Tensor]:
    """Logits less their maximum, 0 on tokens that cannot be sampled; probabilities; log of the sum of exp `[R]`.

    Works in at least float32, and in place where the logits are that wide.
    """
    logits = logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))
    if scoring.temperature != 1:
        logits /= scoring.temperature
    lost_RV = None
    if truncates(top_k=scoring.top_k, top_p=scoring.top_p):
        kept_RV = is_kept(logits, top_k=scoring.top_k, top_p=scoring.top_p)
        lost_RV = ~kept_RV.scatter_(1, targets_R[:, None], True)
        logits.masked_fill_(lost_RV, -torch.inf)
    logits -= logits.amax(-1, keepdim=True)
    probabilities = logits.exp()
    sums = probabilities.sum(-1)
    probabilities /= sums[:, None]
    if lost_RV is not None:
        logits.masked_fill_(lost_RV, 0)
    return logits, probabilities, sums.log()


def _sum(total: Tensor | None, addend: Tensor, dtype: torch.dtype) -> Tensor:
    return addend.to(dtype) if total is None else total.add_(addend)


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _blocks(logits_CV: Tensor, *per_token_C: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of a few rows: as many as fit into a CPU's cache, and on a GPU as many as keep it at work."""
    size = NUMBERS_ON_GPU if logits_CV.is_cuda else NUMBERS_IN_CACHE
    num_rows = max(1, size // logits_CV.shape[1])
    return zip(*(tensor.split(num_rows) for tensor in (logits_CV, *per_token_C)), strict=True)
