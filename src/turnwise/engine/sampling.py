"""Draws tokens from logits by inverting the cumulative distribution at numbers drawn beforehand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from turnwise.core.truncation import is_kept, truncates
from turnwise.types import Sampling

BLOCK = 256
"""Tokens whose probabilities are summed at once."""
MANY_TOKENS = 8192
"""Size of a vocabulary from which on blocks save time."""


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
    greedy_rows = [row for row, s in enumerate(samplings_B) if s.temperature == 0]
    temperatures = [s.temperature or 1.0 for s in samplings_B]
    logits_BV = logits_BV.float()
    if any(temperature != 1 for temperature in temperatures):
        logits_BV = logits_BV / torch.tensor(temperatures, device=logits_BV.device)[:, None]
    if truncated_rows := _truncated_rows(samplings_B):
        logits_BV = logits_BV.clone()
    for (top_k, top_p), rows in truncated_rows.items():
        kept = is_kept(logits_BV[rows], top_k=top_k, top_p=top_p)
        logits_BV[rows] = logits_BV[rows].masked_fill(~kept, -torch.inf)
    probabilities_BV = logits_BV.softmax(-1)
    tokens_B = _invert(probabilities_BV, uniforms_B)
    if greedy_rows:
        tokens_B[greedy_rows] = logits_BV[greedy_rows].argmax(-1)
    return tokens_B, probabilities_BV.gather(-1, tokens_B[:, None]).squeeze(1).log()


def _invert(probabilities_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The first token of each row whose cumulative probability exceeds the uniform, as a share of the whole.

    A large vocabulary is summed first over blocks of tokens, then token by token in the block where that happens: the
    running sum over all of it would take longer than everything else. A token of probability 0 is never found.
    """
    size = probabilities_BV.shape[-1]
    if size < MANY_TOKENS:
        cumulative_BV = probabilities_BV.cumsum(-1, dtype=torch.float64)
        return _first_above(cumulative_BV, uniforms_B[:, None] * cumulative_BV[:, -1:]).squeeze(1)
    whole = size // BLOCK * BLOCK
    sums_BC = probabilities_BV[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1, dtype=torch.float64)
    if whole < size:
        sums_BC = torch.cat([sums_BC, probabilities_BV[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)], -1)
    cumulative_BC = sums_BC.cumsum(-1)
    sought_B1 = uniforms_B[:, None] * cumulative_BC[:, -1:]
    block_B1 = _first_above(cumulative_BC, sought_B1)
    sought_B1 = (sought_B1 - cumulative_BC.gather(-1, block_B1) + sums_BC.gather(-1, block_B1)).clamp_(min=0)
    tokens_BW = block_B1 * BLOCK + torch.arange(BLOCK, device=block_B1.device)
    found_BW = probabilities_BV.gather(-1, tokens_BW.clamp(max=size - 1)).double().masked_fill_(tokens_BW >= size, 0)
    tokens_B1 = block_B1 * BLOCK + _first_above(found_BW.cumsum(-1), sought_B1)
    return tokens_B1.clamp_(max=size - 1).squeeze(1)  # out of range where a row is not finite


def _first_above(cumulative_BK: Tensor, sought_B1: Tensor) -> Tensor:
    """The first place `[B, 1]` of each row that exceeds what is sought, which rounding may have brought to the sum."""
    highest_B1 = torch.nextafter(cumulative_BK[:, -1:], torch.zeros_like(sought_B1))
    places_B1 = torch.searchsorted(cumulative_BK, torch.minimum(sought_B1, highest_B1), right=True)
    return places_B1.clamp_(max=cumulative_BK.shape[-1] - 1)  # out of range where a row is not finite


def _truncated_rows(samplings: Sequence[Sampling]) -> dict[tuple[int, float], list[int]]:
    """The rows that top-k and top-p take tokens from, by the two."""
    rows: dict[tuple[int, float], list[int]] = {}
    for row, s in enumerate(samplings):
        if s.temperature > 0 and truncates(top_k=s.top_k, top_p=s.top_p):
            rows.setdefault((s.top_k, s.top_p), []).append(row)
    return rows
