"""Log-probabilities of packed tokens under a model, without ever holding all logits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from turnwise.types import TokenBatch


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """What a model thinks of a batch's loss tokens; both `[N]` float32 and 0 on every other token. Entropy in nats."""

    logprobs_N: Tensor
    entropy_N: Tensor


def micro_batches(batch: TokenBatch, token_budget: int) -> list[list[int]]:
    """Cuts a batch into lists of sequences, longest first, whose padded size is at most `token_budget`.

    Args:
        batch: The whole step.
        token_budget: Rows times the longest row; a single sequence may exceed it and then stands alone.

    Returns:
        Sequence indices; those without a loss token appear nowhere, for they have no gradient.
    """
    lengths = batch.cu_seqlens.diff().tolist()
    trained = batch.sequence_index[batch.loss_mask].unique().tolist()
    parts: list[list[int]] = []
    for sequence in sorted(trained, key=lambda s: (-lengths[s], s)):
        if parts and (len(parts[-1]) + 1) * lengths[parts[-1][0]] <= token_budget:
            parts[-1].append(sequence)
        else:
            parts.append([sequence])
    return parts


def score_tokens(
    decoder: nn.Module,
    head: nn.Module,
    batch: TokenBatch,
    *,
    pad_token_id: int,
    logit_chunk: int,
    has_entropy_gradient: bool = False,
) -> TokenScores:
    """Scores every loss token given the tokens before it, at the batch's temperature.

    Rows are padded on the right, where causal attention never looks, so that no mask is needed. Only positions
    that predict a loss token go through `head`, at most `logit_chunk` of them at once; where there are more, their
    logits are computed a second time in the backward pass instead of being kept.

    Args:
        decoder: Maps `input_ids` `[R, T]` to an object with `last_hidden_state` `[R, T, H]`.
        head: Maps hidden states to logits.
        batch: Sequences whose loss tokens all have a token before them.
        pad_token_id: Fills the rows.
        logit_chunk: Rows of the largest tensor `[logit_chunk, V]`.
        has_entropy_gradient: Whether the entropies can be differentiated, for an entropy bonus.

    Returns:
        Log-probs with gradient, and entropies.

    Raises:
        ValueError: If the first token of a sequence is a loss token.
    """
    starts = batch.cu_seqlens[:-1].long()
    lengths = batch.cu_seqlens.diff()
    columns_N = torch.arange(batch.token_ids.numel(), device=starts.device) - starts[batch.sequence_index]
    if bool((columns_N[batch.loss_mask] == 0).any()):
        raise ValueError("a sequence begins with a loss token: nothing before it predicts it")
    padded = torch.full((batch.num_sequences, int(lengths.max())), pad_token_id, device=starts.device)
    padded[batch.sequence_index, columns_N] = batch.token_ids
    hidden = decoder(input_ids=padded, use_cache=False).last_hidden_state

    predictors = hidden[batch.sequence_index[batch.loss_mask], columns_N[batch.loss_mask] - 1]
    targets = batch.token_ids[batch.loss_mask]
    chunks = list(zip(predictors.split(logit_chunk), targets.split(logit_chunk), strict=True))
    options = (batch.temperature, has_entropy_gradient)
    if len(chunks) > 1 and torch.is_grad_enabled():
        scored = [
            checkpoint(_score_chunk, head, *chunk, *options, use_reentrant=False, preserve_rng_state=False)
            for chunk in chunks
        ]
    else:
        scored = [_score_chunk(head, *chunk, *options) for chunk in chunks]
    logprobs, entropies = (torch.cat(column) for column in zip(*scored, strict=True))
    zeros_N = torch.zeros(batch.token_ids.numel(), device=starts.device)
    return TokenScores(
        logprobs_N=zeros_N.masked_scatter(batch.loss_mask, logprobs),
        entropy_N=zeros_N.masked_scatter(batch.loss_mask, entropies),
    )


def _score_chunk(
    head: nn.Module, predictors: Tensor, targets: Tensor, temperature: float, has_entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    logprobs = (head(predictors).float() / temperature).log_softmax(-1)
    chosen = logprobs.gather(1, targets[:, None]).squeeze(1)
    with torch.set_grad_enabled(has_entropy_gradient and torch.is_grad_enabled()):
        entropies = -(logprobs.exp() * logprobs).sum(-1)
    return chosen, entropies
