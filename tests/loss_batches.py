"""Small packed batches whose loss can be computed by hand."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from turnwise.types import TokenBatch


def pack(*sequences: Sequence[tuple[float, Sequence[float]]]) -> TokenBatch:
    """One prompt token, then for each turn `(advantage, behaviour log-probs)` its tokens and a tool token.

    Off-policy: the proximal log-probs are those of the behaviour policy.
    """
    columns: list[tuple[int, int, bool, float, float, int, int]] = []
    lengths = [0]
    for s, turns in enumerate(sequences):
        rows = [(-1, False, 0.0, 0.0)]
        for k, (advantage, logprobs) in enumerate(turns):
            rows += [(k, True, advantage, logprob) for logprob in logprobs]
            rows += [(-1, False, 0.0, 0.0)]
        columns += [(7, n, mask, a, logprob, k, s) for n, (k, mask, a, logprob) in enumerate(rows)]
        lengths.append(len(rows))
    token, position, mask, advantage, logprob, turn, sequence = zip(*columns, strict=True)
    return TokenBatch(
        token_ids=torch.tensor(token),
        position_ids=torch.tensor(position),
        loss_mask=torch.tensor(mask),
        advantages=torch.tensor(advantage, dtype=torch.float32),
        behaviour_logprobs=torch.tensor(logprob, dtype=torch.float32),
        proximal_logprobs=torch.tensor(logprob, dtype=torch.float32),
        turn_index=torch.tensor(turn),
        sequence_index=torch.tensor(sequence),
        cu_seqlens=torch.tensor(lengths).cumsum(0).int(),
        num_loss_tokens=sum(mask),
        num_loss_turns=sum(len(turns) for turns in sequences),
        num_loss_sequences=sum(bool(turns) for turns in sequences),
        temperature=1.0,
    )


# Sequence 0: a turn of 2 tokens and a turn of 1; sequence 1: a turn of 1; sequence 2: a turn of 3.
BATCH = pack(
    [(2.0, [-1.0, -0.5]), (-1.0, [-0.3])],
    [(0.5, [-2.0])],
    [(-0.5, [-0.1, -0.2, -0.7])],
)


def moved(batch: TokenBatch, *log_ratios: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Policy log-probs at the given log-ratios from the behaviour's, in the order of the loss tokens."""
    logprobs = batch.behaviour_logprobs.to(dtype)
    logprobs[batch.loss_mask] += torch.tensor(log_ratios, dtype=dtype)
    return logprobs.requires_grad_()


def shifted(logprobs_N: Tensor, batch: TokenBatch, *offsets: float) -> Tensor:
    """The log-probs with an offset added to each loss token's."""
    result = logprobs_N.clone()
    result[batch.loss_mask] += torch.tensor(offsets)
    return result


def gradient(loss: Tensor, policy_logprobs: Tensor) -> Tensor:
    return torch.autograd.grad(loss, policy_logprobs)[0]


def off_policy() -> tuple[Tensor, Tensor, TokenBatch]:
    """Policy log-probs, entropies and a batch in which behaviour, proximal and reference policy all differ."""
    proximal = shifted(BATCH.behaviour_logprobs, BATCH, 0.9, -0.2, 0.1, -1.2, 0.3, 0.2, -0.1)
    reference = shifted(BATCH.behaviour_logprobs, BATCH, 0.2, 0.1, -0.3, 0.4, -0.2, 0.1, 0.3)
    batch = replace(BATCH, proximal_logprobs=proximal, reference_logprobs=reference)
    entropy = torch.linspace(0.5, 2, batch.token_ids.numel(), dtype=torch.float64).requires_grad_()
    return moved(batch, 1.2, -0.3, -0.3, -1.15, 0.5, -0.1, 0.0), entropy, batch
