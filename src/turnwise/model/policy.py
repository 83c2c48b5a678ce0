"""The trained model with its optimiser: AdamW steps on a packed batch, cut into micro-batches as memory asks."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from turnwise.core.mismatch import mismatch_figures
from turnwise.model.adapter import adapter_weights, add_adapter, load_adapter_weights, merged_weights
from turnwise.model.chat import ChatRenderer
from turnwise.model.fitting import check_optimiser, check_vocabulary, check_weights
from turnwise.model.scorer import TokenScorer, checkpoint_layers
from turnwise.model.sharding import Sharding, load_optimiser_state, load_weights, optimiser_state, whole, whole_weights
from turnwise.protocols import PolicyLoss, Update
from turnwise.ranks import ALONE, Ranks
from turnwise.types import TokenBatch

log = logging.getLogger(__name__)
_TOKENS, _COMPUTED = "tokens", "computed tokens"
"""Counted beside the loss's figures."""


class TorchPolicy:
    """A causal language model of transformers, trained in this process, or by several that have a part of it each.

    With several ranks all of them call the same methods with the same arguments in the same order, and get the same;
    each computes its share of a batch. The weights that are trained are float32 whatever the precision of the passes.
    The model stays in evaluation mode: dropout would make the log-probs of an update differ from those of the rollout.
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
        num_epochs: int = 1,
        num_minibatches: int = 1,
        has_entropy_gradient: bool = False,
        reference: nn.Module | None = None,
        gradient_checkpointing: bool = False,
        lora_rank: int = 0,
        lora_alpha: float = 32.0,
        ranks: Ranks = ALONE,
        sharding: Sharding | None = None,
    ) -> None:
        """Takes `model` over and converts the weights that are trained to float32: all of them, or an adapter's.

        Args:
            model: A causal language model on the device that it is to be trained on.
            renderer: Saved beside the weights, so that a checkpoint is a complete model.
            learning_rate: Of AdamW.
            weight_decay: Decoupled, on all weights.
            betas: AdamW's decays of the first and second moments of the gradient.
            max_grad_norm: Larger gradients are scaled down to this norm.
            token_budget: Computed tokens per micro-batch; a longer sequence stands alone.
            logit_chunk: Tokens whose logits over the vocabulary exist at the same time.
            dtype: Precision of forward and backward passes: float32, or bfloat16 by autocast.
            num_epochs: Passes over the batch of an update, each in `num_minibatches` optimiser steps.
            has_entropy_gradient: Whether the loss differentiates the entropies.
            reference: The frozen model that a KL term compares with; scored once an update.
            gradient_checkpointing: Compute layers again in the backward pass instead of keeping what is inside them.
            lora_rank: Rank of the adapter that is trained in place of the weights; 0 trains all of them.
            lora_alpha: Scale of the adapter, which counts `lora_alpha / lora_rank` times.
            ranks: Who trains the same policy; `sharding`: how it is dealt out over them.

        Raises:
            ValueError: If the model cannot be scored (`TokenScorer`), or an adapter is wanted and peft is missing.
        """
        self._model = cast(Any, model.eval())
        self._has_adapter = lora_rank > 0
        if self._has_adapter:
            add_adapter(model, rank=lora_rank, alpha=lora_alpha)
        else:
            model.float()
        if gradient_checkpointing:
            checkpoint_layers(self._model)
        self._renderer = renderer
        self._max_grad_norm = max_grad_norm
        self._num_epochs = num_epochs
        self._num_minibatches = num_minibatches
        self._has_entropy_gradient, self._has_halved_budget = has_entropy_gradient, False
        self._ranks, self._is_sharded = ranks, sharding is not None
        scoring: dict[str, Any] = {"token_budget": token_budget, "logit_chunk": logit_chunk, "dtype": dtype}
        scoring |= {"ranks": ranks, "sharding": sharding}
        self._scorer = TokenScorer(model, **scoring)
        self._reference = None if reference is None else TokenScorer(reference.eval().requires_grad_(False), **scoring)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self._optimizer = AdamW(trained, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)

    def update(self, batch: TokenBatch, loss: PolicyLoss) -> Update:
        """Trains on a batch for the epochs and minibatches of this policy; how it is cut further changes no gradient.

        With more than one optimiser step the log-probs of the policy as it stands are computed first, once: they are
        the proximal policy that the ratios of every step refer to. A single step is on-policy and needs no such pass.

        Args:
            batch: Sequences whose loss tokens all have a token before them. Without a loss token nothing changes.
            loss: Additive over the parts of a step.

        Returns:
            The log-probs of the loss tokens as the update found the policy, and as metrics the loss's own figures;
            `loss/entropy`, nats, mean over loss tokens; `loss/grad_norm`, before clipping; `update/num_micro_batches`;
            `update/shared_fraction`, the share of the tokens that were not computed because a sibling has them too: all
            of them means over the optimiser steps that had a loss token. `mismatch/*`, between the sampler and the
            policy as the update found it. `update/num_steps`, the optimiser steps; `time/update_s`. Without a loss
            token in the whole batch there is neither an entropy nor a mismatch, and the rest is 0.

        Raises:
            FloatingPointError: A log-prob, loss or gradient is not finite. The optimiser step that it belongs to is
                not taken; those before it are.
        """
        started = perf_counter()
        if self._reference is not None:
            batch = replace(batch, reference_logprobs=self._reference.logprobs(batch))
        is_on_policy = self._num_epochs == 1 and min(self._num_minibatches, batch.num_sequences) <= 1
        if not is_on_policy and batch.proximal_logprobs is None:
            batch = replace(batch, proximal_logprobs=self._scorer.logprobs(batch))
        minibatches = batch.split(self._num_minibatches)
        num_steps = self._num_epochs * len(minibatches)
        taken = []
        for number, minibatch in enumerate(minibatches * self._num_epochs):
            first = number % len(minibatches)
            sequences = range(first, batch.num_sequences, len(minibatches))
            try:
                taken.append(self._optimise(minibatch, sequences, loss))
            except FloatingPointError as error:
                raise FloatingPointError(f"optimiser step {number + 1} of {num_steps} was not taken: {error}") from None
        trained = [figures for figures, _ in taken if figures["update/num_micro_batches"]] or [taken[0][0]]
        figures = {name: fmean(one[name] for one in trained) for name in trained[0]}
        trainer_logprobs_N = taken[0][1] if batch.proximal_logprobs is None else batch.proximal_logprobs
        if (mask := batch.loss_mask).any():
            figures |= mismatch_figures(
                behaviour_logprobs_N=batch.behaviour_logprobs[mask],
                trainer_logprobs_N=trainer_logprobs_N[mask],
                turn_index_N=batch.turn_index[mask],
                sequence_index_N=batch.sequence_index[mask],
            )
        figures |= {"update/num_steps": num_steps, "time/update_s": perf_counter() - started}
        return Update(metrics=figures, logprobs_N=trainer_logprobs_N)

    def gradient(self, batch: TokenBatch, loss: PolicyLoss) -> Tensor:
        """The gradient of the loss at the weights as they are, which stay: flat, float32, on the CPU.

        What the single optimiser step of an on-policy update would be made from, before clipping. All weights in the
        order of the model's parameters; zeros where none reaches.

        Raises:
            FloatingPointError: The loss or the gradient is not finite.
        """
        self._differentiate(batch, range(batch.num_sequences), loss)
        parameters = list(self._model.parameters())
        flat = [p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in parameters]
        self._optimizer.zero_grad(set_to_none=True)
        gradient = torch.cat([part.cpu() for part in flat])
        if not bool(torch.isfinite(gradient).all()):
            raise FloatingPointError("the gradient is not finite")
        return gradient

    def _optimise(
        self, batch: TokenBatch, sequence_numbers: Sequence[int], loss: PolicyLoss
    ) -> tuple[dict[str, float], Tensor]:
        """One optimiser step; its figures, and the log-probs `[N]` of its loss tokens before it.

        Where memory runs out for the first time the step is begun anew with half the token budget, which stays.
        """
        try:
            figures, logprobs_N = self._differentiate(batch, sequence_numbers, loss)
        except torch.OutOfMemoryError:
            if self._has_halved_budget or self._is_sharded:  # others are in the midst of it, and so is FSDP
                raise
            self._has_halved_budget = True
        else:
            return {**figures, "loss/grad_norm": self._step()}, logprobs_N
        # Behind the except clause: within it the error still holds what the failed pass had computed.
        budget = self._scorer.halve_budget()
        log.warning("memory ran out in the update: it goes on with trainer.token_budget=%d", budget)
        figures, logprobs_N = self._differentiate(batch, sequence_numbers, loss)
        return {**figures, "loss/grad_norm": self._step()}, logprobs_N

    def _differentiate(
        self, batch: TokenBatch, sequence_numbers: Sequence[int], loss: PolicyLoss
    ) -> tuple[dict[str, float], Tensor]:
        """Leaves the gradient of the batch in the weights; figures and log-probs as of `_optimise`."""
        self._optimizer.zero_grad(set_to_none=True)
        parts = self._scorer.parts(batch)
        logprobs_N = torch.zeros(batch.token_ids.numel(), device=batch.token_ids.device)
        summed: Counter[str] = Counter()
        failures: list[str] = []
        with self._scorer.casting_once():
            for sequences in parts:
                part = batch.select(sequences).to(self._scorer.device)
                scores = self._scorer.score(part)
                entropy_N = scores.entropy_N if self._has_entropy_gradient else scores.entropy_N.detach()
                with torch.autocast(part.token_ids.device.type, enabled=False):
                    output = loss(scores.logprobs_N, part, entropy_N)
                    if not math.isfinite(value := output.loss.item()):
                        names = [sequence_numbers[sequence] for sequence in sequences]
                        failures.append(f"the loss of sequences {names} is {value}")
                    output.loss.backward()
                logprobs_N[batch.places(sequences)] = scores.logprobs_N.detach().to(logprobs_N)
                entropy = scores.entropy_N.detach().sum().item() / batch.num_loss_tokens
                summed.update({**output.metrics, "loss/entropy": entropy})
                if sequences:
                    summed.update({_TOKENS: part.token_ids.numel(), _COMPUTED: scores.num_computed_tokens})
        of_ranks = self._ranks.gather((dict(summed), failures))
        if met := [failure for _, of_rank in of_ranks for failure in of_rank]:
            raise FloatingPointError(met[0])
        # Without a loss token the loss is still asked, so that its figures stand in every line.
        summed = Counter() if parts else Counter(loss(logprobs_N, batch, logprobs_N).metrics)
        for of_rank, _ in of_ranks:
            summed.update(of_rank)
        num_tokens, num_computed = summed.pop(_TOKENS, 0), summed.pop(_COMPUTED, 0)
        shared_fraction = 1 - num_computed / num_tokens if parts else 0.0
        figures = {**summed, "update/num_micro_batches": len(parts), "update/shared_fraction": shared_fraction}
        return figures, self._ranks.total(logprobs_N)

    @property
    def num_positions(self) -> int:
        """Tokens that fit into the model's context."""
        return self._model.config.max_position_embeddings

    def set_learning_rate(self, learning_rate: float) -> None:
        """What later updates use, for a schedule."""
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = learning_rate

    def logprobs(self, batch: TokenBatch) -> Tensor:
        """Log-probabilities `[N]` of the loss tokens at the batch's temperature, without gradient; 0 elsewhere."""
        return self._scorer.logprobs(batch)

    def weights(self) -> Mapping[str, Tensor]:
        """The current weights under their Hugging Face names: views, or copies where they are merged or gathered."""
        weights = whole_weights(self._model) if self._is_sharded else self._model.state_dict()
        return merged_weights(self._model, weights) if self._has_adapter else weights

    def save_pretrained(self, folder: Path) -> None:
        """Writes weights, config and tokenizer in the Hugging Face layout; of several ranks the first does."""
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        weights = self.weights()
        self._ranks.by_first(lambda: self._model.save_pretrained(folder, state_dict=weights))
        self._ranks.by_first(lambda: self._renderer.save_pretrained(folder))

    def load_pretrained(self, folder: Path) -> None:
        """Reads the weights that `save_pretrained` wrote; those under an adapter never changed.

        Raises:
            ValueError: They are those of another model, or of one with another vocabulary.
        """
        check_vocabulary(folder, self._renderer.vocabulary)
        if not self._has_adapter:
            saved = type(self._model).from_pretrained(folder, dtype=torch.float32).state_dict()
            check_weights(saved, self._model.state_dict())
            load_weights(self._model, saved) if self._is_sharded else self._model.load_state_dict(saved)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and, if there is one, the adapter's weights as `adapter`; this rank's parts of both."""
        sharded = self._is_sharded
        state = optimiser_state(self._model, self._optimizer) if sharded else self._optimizer.state_dict()
        return state | ({"adapter": adapter_weights(self._model)} if self._has_adapter else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            ValueError: It belongs to another adapter or optimiser.
        """
        state = dict(state)
        load_adapter_weights(self._model, state.pop("adapter", {}))
        if self._is_sharded:
            load_optimiser_state(self._model, self._optimizer, state)
        else:
            check_optimiser(state, self._optimizer)
            self._optimizer.load_state_dict(state)

    def _step(self) -> float:
        norm = whole(nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm)).item()
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}")
        self._optimizer.step()
        return norm
