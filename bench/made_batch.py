"""Batches of made-up trajectories, for benchmarks of the update."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from turnwise.token_batch import OPTIONAL, PER_TOKEN_DTYPES
from turnwise.types import TokenBatch


def made_batch(
    *,
    vocab_size: int,
    num_groups: int = 4,
    group_size: int = 8,
    prompt_tokens: int = 64,
    num_turns: int = 1,
    turn_tokens: int = 48,
    tool_tokens: int = 16,
    shares_prompts: bool = True,
) -> TokenBatch:
    """Groups whose trajectories share their prompt and nothing else; a tool's output stands between two turns.

    Without `shares_prompts` every trajectory has a prompt of its own, of the same length.
    """
    random = torch.Generator().manual_seed(0)
    num_sequences = num_groups * group_size
    turns = torch.full((prompt_tokens,), -1)
    for turn in range(num_turns):
        between = torch.full((tool_tokens if turn else 0,), -1)
        turns = torch.cat([turns, between, torch.full((turn_tokens,), turn)])
    length = turns.numel()
    token_ids = torch.randint(vocab_size, (num_sequences, length), generator=random)
    if shares_prompts:
        token_ids[:, :prompt_tokens] = token_ids[::group_size, :prompt_tokens].repeat_interleave(group_size, 0)
    loss_mask = (turns >= 0).repeat(num_sequences)
    return TokenBatch(
        token_ids=token_ids.flatten(),
        position_ids=torch.arange(length).repeat(num_sequences),
        loss_mask=loss_mask,
        advantages=torch.randn(loss_mask.numel(), generator=random) * loss_mask,
        behaviour_logprobs=torch.zeros(loss_mask.numel()),
        turn_index=turns.repeat(num_sequences),
        sequence_index=torch.arange(num_sequences).repeat_interleave(length),
        cu_seqlens=torch.tensor([0, *accumulate([length] * num_sequences)], dtype=torch.int32),
        num_loss_tokens=int(loss_mask.sum()),
        num_loss_turns=num_sequences * num_turns,
        num_loss_sequences=num_sequences,
        temperature=1.0,
    )


def shortened(batch: TokenBatch, lengths: Sequence[int]) -> TokenBatch:
    """The first so many tokens of each sequence of `batch`, as a step of their own."""
    order = torch.arange(batch.token_ids.numel()) - batch.cu_seqlens[batch.sequence_index].long()
    kept = order < torch.tensor(lengths)[batch.sequence_index]
    tensors = {name: getattr(batch, name)[kept] for name in PER_TOKEN_DTYPES if name not in OPTIONAL}
    edges = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return replace(batch, **tensors, cu_seqlens=edges).counted()
