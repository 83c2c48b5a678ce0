"""Which tokens top-k and top-p leave to be sampled, for the sampler and for whoever scores what it sampled."""

import torch
from torch import Tensor

NO_TOP_K = 0
NO_TOP_P = 1.0


def truncates(*, top_k: int, top_p: float) -> bool:
    """Whether the two take any token away at all."""
    return top_k != NO_TOP_K or top_p != NO_TOP_P


def check_truncation(*, top_k: int, top_p: float, prefix: str = "") -> None:
    """Refuses values that would leave nothing to sample.

    Args:
        top_k: As in `is_kept`.
        top_p: As in `is_kept`.
        prefix: Stands before the names in the message.

    Raises:
        ValueError: `top_k` is negative, or `top_p` is not in (0, 1].
    """
    if top_k < 0:
        raise ValueError(f"{prefix}top_k={top_k}: expected >= 0 (0 keeps every token)")
    if not 0 < top_p <= 1:
        raise ValueError(f"{prefix}top_p={top_p}: expected in (0, 1] (1 keeps every token)")


def is_kept(logits_NV: Tensor, *, top_k: int = NO_TOP_K, top_p: float = NO_TOP_P) -> Tensor:
    """The tokens that can be sampled: the k likeliest, and of those the fewest whose probability reaches `top_p`.

    Top-k comes first and what it leaves is normalised before top-p is applied, as vLLM and transformers do. Tokens as
    likely as the k-th are kept too. At least the likeliest token is kept.

    Args:
        logits_NV: Logits `[N, V]`, already divided by the temperature.
        top_k: Tokens to keep; 0 keeps all.
        top_p: Probability to keep; 1 keeps all.

    Returns:
        Bool `[N, V]`.

    Raises:
        ValueError: `top_k` or `top_p` is out of range.
    """
    check_truncation(top_k=top_k, top_p=top_p)
    kept_NV = torch.ones_like(logits_NV, dtype=torch.bool)
    if 0 < top_k < logits_NV.shape[-1]:
        kept_NV = logits_NV >= logits_NV.topk(top_k, dim=-1).values[:, -1:]
    if top_p < 1:
        descending_NV, order_NV = logits_NV.masked_fill(~kept_NV, -torch.inf).sort(dim=-1, descending=True, stable=True)
        probabilities_NV = descending_NV.double().softmax(-1)
        likelier_NV = probabilities_NV.cumsum(-1) - probabilities_NV  # of all tokens that come before
        kept_NV = kept_NV & torch.zeros_like(kept_NV).scatter(-1, order_NV, likelier_NV < top_p)
    return kept_NV
