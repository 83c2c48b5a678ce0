"""Decodes a wave: requests that were asked for together, from their prompts to their last tokens."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from turnwise.engine.kv_cache import BatchCache, PrefixStore
from turnwise.engine.sampling import draw_uniforms, sample_tokens
from turnwise.types import Completion, FinishReason, Sampling

COMPACT_AT = 0.75
"""Finished rows leave the batch when the others are at most this share of it."""

MIN_NEW_COLUMNS = 64
"""Columns that a batch reserves at least when it is built anew."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A model and what decoding with it needs to know."""

    model: Any
    """A causal language model of transformers."""
    store: PrefixStore
    stop_token_ids: frozenset[int]
    pad_token_id: int
    max_positions: int
    prefill_tokens: int


@dataclass(slots=True)
class Request:
    """A call of `generate` that waits for its completion, and what has been sampled for it so far."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    future: "asyncio.Future[Completion]"
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Wave:
    """The rows of one batch on their way; what it computes is a function of the requests and the stored turns.

    Equal prompts are prefilled once. Rows are ragged: left padding and holes are masked, positions are explicit.
    A row that finishes gives its keys and values to the store and leaves at the next compaction.
    """

    @torch.inference_mode()
    def __init__(self, decoder: Decoder, requests: Sequence[Request]) -> None:
        """Prefills the prompts; a request that leaves no room for a token is finished as aborted."""
        self._decoder = decoder
        self._device = next(decoder.model.parameters()).device
        self._rows: list[Request] = []
        budgets: list[int] = []
        for request in requests:
            budget = min(request.sampling.max_new_tokens, decoder.max_positions - len(request.prompt_ids))
            if budget < 1:
                request.finish_reason = FinishReason.abort
            else:
                self._rows.append(request)
                budgets.append(budget)
        if not self._rows:
            return
        uniforms = torch.zeros(len(budgets), max(budgets), dtype=torch.float64)
        for row, request, budget in zip(uniforms, self._rows, budgets, strict=True):
            row[:budget] = draw_uniforms(request.sampling.seed, budget)
        self._uniforms = uniforms.to(self._device)
        self._temperatures = torch.tensor(
            [r.sampling.temperature for r in self._rows], dtype=torch.float32, device=self._device
        )
        self._positions = torch.tensor([[len(r.prompt_ids)] for r in self._rows], device=self._device)
        self._budgets = budgets
        self._num_sampled = 0

        place_of = {prompt: place for place, prompt in enumerate(dict.fromkeys(r.prompt_ids for r in self._rows))}
        cache, logits = self._prefill(list(place_of))
        places = torch.tensor([place_of[r.prompt_ids] for r in self._rows], device=self._device)
        self._cache, self._logits = cache.gather(places, MIN_NEW_COLUMNS), logits[places]

    @torch.inference_mode()
    def advance(self) -> bool:
        """Samples one token for every row; returns whether any row goes on."""
        if not self._rows:
            return False
        tokens, logprobs = sample_tokens(self._logits, self._temperatures, self._uniforms[:, self._num_sampled])
        self._num_sampled += 1
        self._record(tokens.tolist(), logprobs.tolist())
        live = [place for place, request in enumerate(self._rows) if request.finish_reason is None]
        if not live:
            return False
        if len(live) <= COMPACT_AT * len(self._rows):
            tokens = self._rebuild(live, tokens)
        elif self._cache.width == self._cache.capacity:
            tokens = self._rebuild(range(len(self._rows)), tokens)
        self._cache.filled[:, self._cache.width] = True
        self._logits = self._forward(self._cache, tokens[:, None], self._positions)
        self._cache.width += 1
        self._positions += 1
        return True

    def _record(self, tokens: list[int], logprobs: list[float]) -> None:
        for place, request in enumerate(self._rows):
            if request.finish_reason is not None:
                continue
            if request.future.cancelled():
                request.finish_reason = FinishReason.abort
                continue
            if not math.isfinite(logprobs[place]):
                raise FloatingPointError(f"the model's logits are not finite after {len(request.prompt_ids)} tokens")
            request.token_ids.append(tokens[place])
            request.logprobs.append(logprobs[place])
            if tokens[place] in self._decoder.stop_token_ids:
                request.finish_reason = FinishReason.stop
                # The stop token itself has not been through the model: it is prefilled with what follows it.
                known = (*request.prompt_ids, *request.token_ids[:-1])
                self._decoder.store.put(known, self._cache.sequence(place))
            elif len(request.token_ids) == self._budgets[place]:
                request.finish_reason = FinishReason.length

    def _rebuild(self, places: Sequence[int], tokens: Tensor) -> Tensor:
        """Keeps the rows at `places`, with room for more columns; returns their tokens."""
        self._rows = [self._rows[place] for place in places]
        self._budgets = [self._budgets[place] for place in places]
        index = torch.tensor(places, device=self._device)
        self._uniforms, self._temperatures = self._uniforms[index], self._temperatures[index]
        self._positions = self._positions[index]
        self._cache = self._cache.gather(index, max(MIN_NEW_COLUMNS, self._cache.width // 2))
        return tokens[index]

    def _prefill(self, prompts: list[tuple[int, ...]]) -> tuple[BatchCache, Tensor]:
        """Keys and values of distinct prompts and the logits `[prompts, V]` after them.

        Stored prefixes end at one column and what remains of each prompt ends at the last one, so that the whole
        batch runs through the model at once; between the two a row may have a hole.
        """
        stored = [self._decoder.store.take(prompt) for prompt in prompts]
        known = [0 if entry is None else entry.shape[3] for entry in stored]
        start = max(known)
        width = start + max(len(prompt) - n for prompt, n in zip(prompts, known, strict=True))
        cache = BatchCache.empty(self._decoder.model, num_rows=len(prompts), num_columns=width)
        cache.width = start
        filled = torch.zeros(len(prompts), width, dtype=torch.bool)
        token_ids = torch.full((len(prompts), width - start), self._decoder.pad_token_id)
        positions = torch.zeros_like(token_ids)
        for row, (prompt, entry, n) in enumerate(zip(prompts, stored, known, strict=True)):
            if entry is not None:
                cache.storage[:, :, row, :, start - n : start] = entry
            filled[row, start - n : start] = True
            filled[row, width - (len(prompt) - n) :] = True
            token_ids[row, n - len(prompt) :] = torch.tensor(prompt[n:])
            positions[row, n - len(prompt) :] = torch.arange(n, len(prompt))
        cache.filled.copy_(filled)
        token_ids, positions = token_ids.to(self._device), positions.to(self._device)
        rows_at_once = max(1, self._decoder.prefill_tokens // (width - start))
        logits = [
            self._forward(
                cache.rows(a, a + rows_at_once), token_ids[a : a + rows_at_once], positions[a : a + rows_at_once]
            )
            for a in range(0, len(prompts), rows_at_once)
        ]
        cache.width = width
        return cache, torch.cat(logits)

    def _forward(self, cache: BatchCache, token_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Runs new columns through the model; returns the logits `[B, V]` after the last one."""
        end = cache.width + token_ids.shape[1]
        output = self._decoder.model(
            input_ids=token_ids,
            attention_mask=cache.filled[:, :end],
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]
