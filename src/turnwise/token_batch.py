"""The last two nouns, those made of tensors: the packed tokens of an optimiser step, and what a loss says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P

PER_TOKEN_DTYPES = {
    **dict.fromkeys(("token_ids", "position_ids", "turn_index", "sequence_index"), torch.int64),
    **dict.fromkeys(("advantages", "behaviour_logprobs", "proximal_logprobs", "reference_logprobs"), torch.float32),
    "loss_mask": torch.bool,
}
OPTIONAL = ("proximal_logprobs", "reference_logprobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Whole trajectories packed end to end into 1-D tensors over N tokens, ready for one update.

    Sequence s holds tokens `cu_seqlens[s]:cu_seqlens[s + 1]`. Entries of the per-token tensors belong
    to the token at that place: `behaviour_logprobs[n]` is the log-probability of `token_ids[n]` given the
    tokens before it, at `temperature` and among the tokens that `top_k` and `top_p` leave, under the policy that
    sampled it. `turn_index` counts the turns of its
    sequence from 0 and is -1 on prompt and tool tokens. The `num_loss_*` counts are those of the whole optimiser
    step, whichever part of it the batch holds, so that a loss does not depend on how the step was cut.

    `proximal_logprobs` are those of the policy as the update found it; None where the policy that is scored is
    that policy (on-policy). `reference_logprobs` are those of the frozen reference policy; None without one.
    """

    token_ids: Tensor
    position_ids: Tensor
    loss_mask: Tensor
    advantages: Tensor
    behaviour_logprobs: Tensor
    turn_index: Tensor
    sequence_index: Tensor
    cu_seqlens: Tensor
    num_loss_tokens: int
    num_loss_turns: int
    num_loss_sequences: int
    temperature: float
    top_k: int = NO_TOP_K
    top_p: float = NO_TOP_P
    proximal_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None

    def __post_init__(self) -> None:
        num_tokens = self.token_ids.numel()
        for name, dtype in PER_TOKEN_DTYPES.items():
            tensor: Tensor | None = getattr(self, name)
            if tensor is None and name in OPTIONAL:
                continue
            if tensor is None or tensor.shape != (num_tokens,) or tensor.dtype != dtype:
                found = "None" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise ValueError(f"TokenBatch.{name}: expected {dtype} of shape ({num_tokens},), got {found}")
        if self.cu_seqlens.dtype != torch.int32 or self.cu_seqlens.ndim != 1:
            raise ValueError(f"TokenBatch.cu_seqlens: expected int32 of rank 1, got {self.cu_seqlens.dtype}")
        if (edges := self.cu_seqlens[[0, -1]].tolist()) != [0, num_tokens]:
            raise ValueError(f"TokenBatch.cu_seqlens runs from {edges[0]} to {edges[1]}, expected 0 to {num_tokens}")
        for name, dtype in PER_TOKEN_DTYPES.items():
            tensor = getattr(self, name) if dtype.is_floating_point else None
            if tensor is not None and not bool(torch.isfinite(tensor[self.loss_mask]).all()):
                raise ValueError(f"TokenBatch.{name} holds NaN or infinity")

    @property
    def num_sequences(self) -> int:
        """Number of trajectories in the batch."""
        return self.cu_seqlens.numel() - 1

    def select(self, sequences: Sequence[int]) -> "TokenBatch":
        """The batch of the given sequences only, in that order; the counts of the whole step stay."""
        places = self.places(sequences)
        picked = {name: tensor[places] for name in PER_TOKEN_DTYPES if (tensor := getattr(self, name)) is not None}
        lengths = self.cu_seqlens.diff()[list(sequences)].long()
        order = torch.arange(len(sequences), device=lengths.device)
        picked["sequence_index"] = order.repeat_interleave(lengths)
        edges = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return replace(self, **picked, cu_seqlens=edges.to(self.cu_seqlens))

    def split(self, num_steps: int) -> "list[TokenBatch]":
        """Deals the sequences out to at most `num_steps` optimiser steps, each with the counts of its own tokens.

        Sequence s goes to step `s % num_steps`, so that the trajectories of a group are spread over the steps.
        """
        num_steps = min(num_steps, self.num_sequences)
        if num_steps <= 1:
            return [self]
        return [self.select(range(s, self.num_sequences, num_steps)).counted() for s in range(num_steps)]

    def counted(self) -> "TokenBatch":
        """The same tokens as a whole optimiser step: the counts are those of the loss tokens in this batch."""
        sequence = self.sequence_index[self.loss_mask]
        turns = torch.stack([sequence, self.turn_index[self.loss_mask]])
        return replace(
            self,
            num_loss_tokens=sequence.numel(),
            num_loss_turns=turns.unique(dim=1).shape[1],
            num_loss_sequences=sequence.unique().numel(),
        )

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch with every tensor on `device`."""
        moved = {name: value.to(device) for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)}
        return replace(self, **moved)

    def places(self, sequences: Sequence[int]) -> Tensor:
        """Places in the batch of the tokens of `sequences`, in that order, int64."""
        edges = self.cu_seqlens.tolist()
        ranges = [torch.arange(edges[s], edges[s + 1]) for s in sequences]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *ranges]).to(self.token_ids.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """A scalar loss to differentiate, and its figures: each a sum over the batch divided by the step's counts."""

    loss: Tensor
    metrics: Mapping[str, float]
