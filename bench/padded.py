"""An update without packing, to compare with: what one gets from padded rows and the model as transformers has it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from turnwise.model.token_logprobs import Scoring, token_logprobs
from turnwise.protocols import PolicyLoss
from turnwise.types import TokenBatch


class PaddedUpdate:
    """The same optimiser step on the same loss tokens, from rows padded on the right to the longest of them.

    Rows go through the decoder with an attention mask, in the order of the batch, as many at a time as fit into the
    token budget with their padding; attention is transformers' `sdpa`. Hidden states become log-probs of the loss
    tokens, and these a loss, by the functions that the policy uses. So the difference is the padding, with the masks
    and the prompts computed again that come with it.
    """

    def __init__(self, model: Any, loss: PolicyLoss, *, token_budget: int, scoring: Scoring) -> None:
        """Shares the weights of `model` with whoever else trains it; the optimiser is its own."""
        self._model = model
        self._loss = loss
        self._token_budget = token_budget
        self._scoring = scoring
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)

    def update(self, batch: TokenBatch) -> None:
        """One optimiser step."""
        self._optimizer.zero_grad(set_to_none=True)
        self.differentiate(batch)
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()

    def differentiate(self, batch: TokenBatch) -> None:
        """Adds the gradient of the batch to that in the weights."""
        self._model.set_attn_implementation("sdpa")
        with self._autocast():  # around all of them, so that weights are cast once
            for sequences in padded_parts(batch, self._token_budget):
                part = batch.select(sequences).to(self._model.device)
                places = part.loss_mask.nonzero().squeeze(1)
                hidden = self._hidden(part)[places - 1]
                logprobs, entropies = token_logprobs(
                    self._model.get_output_embeddings(), hidden, part.token_ids[places], self._scoring
                )
                with torch.autocast(self._model.device.type, enabled=False):
                    zeros_N = torch.zeros(part.token_ids.numel(), device=part.token_ids.device)
                    logprobs_N = zeros_N.masked_scatter(part.loss_mask, logprobs)
                    entropy_N = zeros_N.masked_scatter(part.loss_mask, entropies.detach())
                    self._loss(logprobs_N, part, entropy_N).loss.backward()

    def _hidden(self, part: TokenBatch) -> Tensor:
        """Last hidden states `[N, H]` of the tokens, those of the padding left out."""
        lengths = part.cu_seqlens.diff().tolist()
        rows = pad_sequence(list(part.token_ids.split(lengths)), batch_first=True)
        is_token = pad_sequence(list(torch.ones_like(part.loss_mask).split(lengths)), batch_first=True)
        output = self._model.get_decoder()(input_ids=rows, attention_mask=is_token.long(), use_cache=False)
        return output.last_hidden_state[is_token]

    def _autocast(self) -> torch.autocast:
        uses_half = self._scoring.dtype == torch.bfloat16
        return torch.autocast(self._model.device.type, dtype=torch.bfloat16, enabled=uses_half)


def padded_parts(batch: TokenBatch, token_budget: int) -> list[list[int]]:
    """Consecutive sequences, as many as stay within the budget when all are as long as the longest."""
    parts: list[list[int]] = []
    longest = 0
    for sequence, length in enumerate(batch.cu_seqlens.diff().tolist()):
        longest = max(longest, length)
        if not parts or longest * (len(parts[-1]) + 1) > token_budget:
            parts.append([])
            longest = length
        parts[-1].append(sequence)
    return parts
