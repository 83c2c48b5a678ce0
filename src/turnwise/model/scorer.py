"""A model that scores packed tokens: the policy while it is trained, or a frozen reference."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from turnwise.model.token_scores import TokenScores, micro_batches, score_tokens
from turnwise.types import TokenBatch


class TokenScorer:
    """Log-probabilities and entropies of the loss tokens of a batch under one model, in parts of bounded size."""

    def __init__(
        self, model: nn.Module, *, pad_token_id: int, token_budget: int, logit_chunk: int, dtype: torch.dtype
    ) -> None:
        """Checks that `model` can be scored through its decoder and its head.

        Args:
            model: A causal language model on the device on which it scores.
            pad_token_id: Fills ragged rows.
            token_budget: Padded tokens per part; a longer sequence stands alone.
            logit_chunk: Tokens whose logits over the vocabulary exist at the same time.
            dtype: Precision of the passes: float32, or bfloat16 by autocast.

        Raises:
            ValueError: If the model's logits are not its output embedding applied to its last hidden states.
        """
        self.device = next(model.parameters()).device
        self._model = cast(Any, model)
        self._decoder: nn.Module = self._model.get_decoder()
        self._head: nn.Module = self._model.get_output_embeddings()
        self._pad_token_id = pad_token_id
        self._token_budget = token_budget
        self._logit_chunk = logit_chunk
        self._dtype = dtype
        self._check_head()

    def parts(self, batch: TokenBatch) -> list[list[int]]:
        """The sequences of `batch` that have a loss token, cut into parts within the token budget."""
        return micro_batches(batch, self._token_budget)

    def score(self, part: TokenBatch, *, has_entropy_gradient: bool = False) -> TokenScores:
        """Scores a part of a batch, on the model's device."""
        with self._autocast():
            return score_tokens(
                self._decoder,
                self._head,
                part,
                pad_token_id=self._pad_token_id,
                logit_chunk=self._logit_chunk,
                has_entropy_gradient=has_entropy_gradient,
            )

    @torch.no_grad()
    def logprobs(self, batch: TokenBatch) -> Tensor:
        """Log-probabilities `[N]` of the loss tokens at the batch's temperature, without gradient; 0 elsewhere.

        Raises:
            FloatingPointError: One of them is not finite.
        """
        logprobs_N = torch.zeros(batch.token_ids.numel(), device=batch.token_ids.device)
        for sequences in self.parts(batch):
            scores = self.score(batch.select(sequences).to(self.device))
            logprobs_N[batch.places(sequences)] = scores.logprobs_N.to(logprobs_N.device)
            if not bool(torch.isfinite(scores.logprobs_N).all()):
                raise FloatingPointError(f"the log-probs of sequences {sequences} are not finite")
        return logprobs_N

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Models that scale or cap their logits behind the head would be trained on other numbers than sampled."""
        token_ids = torch.tensor([[0, 1]], device=self.device)
        with self._autocast():
            expected = self._model(input_ids=token_ids, use_cache=False).logits
            found = self._head(self._decoder(input_ids=token_ids, use_cache=False).last_hidden_state)
        if not torch.allclose(found, expected, rtol=1e-2, atol=1e-3):
            raise ValueError(f"{type(self._model).__name__} changes its logits behind the output embedding")
