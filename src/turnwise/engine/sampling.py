"""Draws tokens from logits by inverting the cumulative distribution at numbers drawn beforehand."""

import torch
from torch import Tensor


def draw_uniforms(seed: int, count: int) -> Tensor:
    """`count` numbers in [0, 1), float64, a function of `seed`."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample_tokens(logits_BV: Tensor, temperatures_B: Tensor, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(logits / temperature): the first whose cumulative probability exceeds the uniform.

    Args:
        logits_BV: Logits `[B, V]` over the whole vocabulary; nothing is cut off or renormalised.
        temperatures_B: Float32 `[B]`; 0 takes the likeliest token and scores it at temperature 1.
        uniforms_B: Float64 `[B]` in [0, 1).

    Returns:
        Token ids int64 `[B]` and their log-probabilities float32 `[B]`; both depend on their own row alone.
    """
    is_greedy_B = temperatures_B == 0
    logprobs_BV = (logits_BV.float() / temperatures_B.masked_fill(is_greedy_B, 1.0)[:, None]).log_softmax(-1)
    cumulative_BV = logprobs_BV.exp().cumsum(-1, dtype=torch.float64)
    drawn_B1 = torch.searchsorted(cumulative_BV, uniforms_B[:, None] * cumulative_BV[:, -1:], right=True)
    drawn_B1 = drawn_B1.clamp_(max=logits_BV.shape[-1] - 1)
    tokens_B1 = torch.where(is_greedy_B[:, None], logprobs_BV.argmax(-1, keepdim=True), drawn_B1)
    return tokens_B1.squeeze(1), logprobs_BV.gather(-1, tokens_B1).squeeze(1)
