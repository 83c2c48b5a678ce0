"""Draws tokens from logits by inverting the cumulative distribution at numbers drawn beforehand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from turnwise.core.truncation import is_kept, truncates
from turnwise.types import Sampling


def draw_uniforms(seed: int, count: int) -> Tensor:
    """`count` numbers in [0, 1), float64, a function of `seed`."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample_tokens(logits_BV: Tensor, samplings_B: Sequence[Sampling], uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(logits / temperature): the first whose cumulative probability exceeds the uniform.

    Args:
        logits_BV: Logits `[B, V]` over the whole vocabulary.
        samplings_B: How each row is sampled. Temperature 0 takes the likeliest token and scores it at temperature 1
            among all tokens. Otherwise only the tokens that top-k and top-p leave can be drawn, and scores are those of
            the distribution that is left.
        uniforms_B: Float64 `[B]` in [0, 1).

    Returns:
        Token ids int64 `[B]` and their log-probabilities float32 `[B]`; both depend on their own row alone.
    """
    temperatures_B = torch.tensor([s.temperature for s in samplings_B], dtype=torch.float32, device=logits_BV.device)
    is_greedy_B = temperatures_B == 0
    logits_BV = logits_BV.float() / temperatures_B.masked_fill(is_greedy_B, 1.0)[:, None]
    for (top_k, top_p), rows in _truncated_rows(samplings_B).items():
        kept = is_kept(logits_BV[rows], top_k=top_k, top_p=top_p)
        logits_BV[rows] = logits_BV[rows].masked_fill(~kept, -torch.inf)
    logprobs_BV = logits_BV.log_softmax(-1)
    cumulative_BV = logprobs_BV.exp().cumsum(-1, dtype=torch.float64)
    drawn_B1 = torch.searchsorted(cumulative_BV, uniforms_B[:, None] * cumulative_BV[:, -1:], right=True)
    drawn_B1 = drawn_B1.clamp_(max=logits_BV.shape[-1] - 1)
    tokens_B1 = torch.where(is_greedy_B[:, None], logprobs_BV.argmax(-1, keepdim=True), drawn_B1)
    return tokens_B1.squeeze(1), logprobs_BV.gather(-1, tokens_B1).squeeze(1)


def _truncated_rows(samplings: Sequence[Sampling]) -> dict[tuple[int, float], list[int]]:
    """The rows that top-k and top-p take tokens from, by the two."""
    rows: dict[tuple[int, float], list[int]] = {}
    for row, s in enumerate(samplings):
        if s.temperature > 0 and truncates(top_k=s.top_k, top_p=s.top_p):
            rows.setdefault((s.top_k, s.top_p), []).append(row)
    return rows
