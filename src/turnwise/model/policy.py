"""The trained model with its optimiser: one AdamW step on a packed batch, cut into micro-batches as memory asks."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn

from turnwise.model.chat import ChatRenderer
from turnwise.model.token_scores import TokenScores, micro_batches, score_tokens
from turnwise.protocols import Metrics, PolicyLoss
from turnwise.types import TokenBatch


class TorchPolicy:
    """A causal language model of transformers, trained in this process.

    The weights are float32 whatever the precision of the passes. The model stays in evaluation mode: dropout would
    make the log-probs of an update differ from those of the rollout.
    """

    def __init__(
        self,
        model: nn.Module,
        renderer: ChatRenderer,
        *,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        max_grad_norm: float,
        token_budget: int,
        logit_chunk: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Takes `model` over and converts its weights to float32.

        Args:
            model: A causal language model on the device that it is to be trained on.
            renderer: Saved beside the weights, so that a checkpoint is a complete model.
            learning_rate: Of AdamW.
            weight_decay: Decoupled, on all weights.
            betas: AdamW's decays of the first and second moments of the gradient.
            max_grad_norm: Larger gradients are scaled down to this norm.
            token_budget: Padded tokens per micro-batch; a longer sequence stands alone.
            logit_chunk: Tokens whose logits over the vocabulary exist at the same time.
            dtype: Precision of forward and backward passes: float32, or bfloat16 by autocast.

        Raises:
            ValueError: If the model's logits are not its output embedding applied to its last hidden states.
        """
        self._model = cast(Any, model.float().eval())
        self._renderer = renderer
        self._max_grad_norm = max_grad_norm
        self._token_budget = token_budget
        self._logit_chunk = logit_chunk
        self._dtype = dtype
        self._device = next(model.parameters()).device
        self._decoder: nn.Module = self._model.get_decoder()
        self._head: nn.Module = self._model.get_output_embeddings()
        self._check_head()
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )

    def update(self, batch: TokenBatch, loss: PolicyLoss) -> Metrics:
        """One optimiser step on the whole batch; how it is cut changes memory and speed, not the gradient.

        Args:
            batch: Sequences whose loss tokens all have a token before them. Without a loss token nothing changes.
            loss: Additive over the parts of a step.

        Returns:
            The loss's own figures, summed; `loss/entropy`, nats, mean over the step's loss tokens;
            `loss/grad_norm`, before clipping; `time/update_s`; `update/num_micro_batches`;
            `update/padding_fraction`.

        Raises:
            FloatingPointError: If the loss or the gradient is not finite; the weights are then as they were.
        """
        started = perf_counter()
        self._optimizer.zero_grad(set_to_none=True)
        parts = micro_batches(batch, self._token_budget)
        figures: Counter[str] = Counter()
        num_tokens = num_padded = 0
        for sequences in parts:
            part = batch.select(sequences).to(self._device)
            scores = self._score(part)
            output = loss(scores.logprobs_N, part)
            if not math.isfinite(value := output.loss.item()):
                raise FloatingPointError(f"the loss of sequences {sequences} is {value}; no step was taken")
            output.loss.backward()
            figures.update({**output.metrics, "loss/entropy": scores.entropy_N.sum().item() / batch.num_loss_tokens})
            num_tokens += part.token_ids.numel()
            num_padded += len(sequences) * int(part.cu_seqlens.diff().max())
        return {
            **figures,
            "loss/grad_norm": self._step(),
            "time/update_s": perf_counter() - started,
            "update/num_micro_batches": len(parts),
            "update/padding_fraction": 1 - num_tokens / num_padded if parts else 0.0,
        }

    def set_learning_rate(self, learning_rate: float) -> None:
        """What later updates use, for a schedule."""
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = learning_rate

    def logprobs(self, batch: TokenBatch) -> Tensor:
        """Log-probabilities `[N]` of the loss tokens at the batch's temperature, without gradient; 0 elsewhere."""
        logprobs_N = torch.zeros(batch.token_ids.numel(), device=batch.token_ids.device)
        with torch.no_grad():
            for sequences in micro_batches(batch, self._token_budget):
                scores = self._score(batch.select(sequences).to(self._device))
                places = torch.cat([(batch.sequence_index == sequence).nonzero().squeeze(1) for sequence in sequences])
                logprobs_N[places] = scores.logprobs_N.to(logprobs_N.device)
        return logprobs_N

    def weights(self) -> Mapping[str, Tensor]:
        """Detached views of the current weights under their Hugging Face names."""
        return self._model.state_dict()

    def save_pretrained(self, folder: Path) -> None:
        """Writes weights, config and tokenizer in the Hugging Face layout."""
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        self._model.save_pretrained(folder)
        self._renderer.save_pretrained(folder)

    def load_pretrained(self, folder: Path) -> None:
        """Reads the weights that `save_pretrained` wrote."""
        saved = type(self._model).from_pretrained(folder, dtype=torch.float32)
        self._model.load_state_dict(saved.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state; the weights are saved apart."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        self._optimizer.load_state_dict(dict(state))

    def _score(self, part: TokenBatch) -> TokenScores:
        with self._autocast():
            return score_tokens(
                self._decoder,
                self._head,
                part,
                pad_token_id=self._renderer.pad_token_id,
                logit_chunk=self._logit_chunk,
            )

    def _step(self) -> float:
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm).item()
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}; no step was taken")
        self._optimizer.step()
        return norm

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16)

    @torch.no_grad()
    def _check_head(self) -> None:
        """Models that scale or cap their logits behind the head would be trained on other numbers than sampled."""
        token_ids = torch.tensor([[0, 1]], device=self._device)
        with self._autocast():
            expected = self._model(input_ids=token_ids, use_cache=False).logits
            found = self._head(self._decoder(input_ids=token_ids, use_cache=False).last_hidden_state)
        if not torch.allclose(found, expected, rtol=1e-2, atol=1e-3):
            raise ValueError(f"{type(self._model).__name__} changes its logits behind the output embedding")
