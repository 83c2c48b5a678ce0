"""A model that scores packed tokens: the policy while it is trained, or a frozen reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from turnwise.model.prefix_tree import PrefixTree, Segment, micro_batches, plant
from turnwise.model.token_logprobs import CastHead, Scoring, cast_head, token_logprobs
from turnwise.model.tree_attention import use_tree_attention
from turnwise.types import TokenBatch


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """What a model thinks of a batch's loss tokens; both `[N]` and 0 on every other token. Entropy in nats.

    `num_computed_tokens` went through the model: fewer than the batch has where sequences share a prompt.
    """

    logprobs_N: Tensor
    entropy_N: Tensor
    num_computed_tokens: int


class TokenScorer:
    """Log-probabilities and entropies of the loss tokens of a batch under one model, in parts of bounded size.

    A part goes through the model as one packed tree (`turnwise.model.prefix_tree`): without padding, and with a prompt
    that several of its sequences share computed once.
    """

    def __init__(self, model: nn.Module, *, token_budget: int, logit_chunk: int, dtype: torch.dtype) -> None:
        """Makes the attention of `model` that of trees, and checks that it can be scored so.

        Args:
            model: A causal language model of transformers on the device on which it scores.
            token_budget: Computed tokens per part; a longer sequence stands alone.
            logit_chunk: Tokens whose logits over the vocabulary exist at the same time.
            dtype: Precision of the passes: float32, or bfloat16 by autocast.

        Raises:
            ValueError: If the model's logits are not a linear output embedding applied to its last hidden states, or
                its attention is not the full attention that all layers hand over to transformers.
        """
        self.device = next(model.parameters()).device
        self._model = cast(Any, model)
        self._decoder: nn.Module = self._model.get_decoder()
        self._head: nn.Linear = self._model.get_output_embeddings()
        self._token_budget = token_budget
        self._logit_chunk = logit_chunk
        self._dtype = dtype
        self._head_dtype = torch.bfloat16 if dtype == torch.bfloat16 else self._head.weight.dtype
        self._cast_head: CastHead | None = None
        use_tree_attention(model)
        self._check()

    def parts(self, batch: TokenBatch) -> list[list[int]]:
        """The sequences of `batch` that have a loss token, cut into parts within the token budget."""
        return micro_batches(batch, self._token_budget)

    @contextmanager
    def casting_once(self) -> Iterator[None]:
        """Within it the trained weights are cast to half precision once, not for every part; they must not change."""
        self._cast_head = cast_head(self._head, self._head_dtype)
        try:
            with self._autocast():
                yield
        finally:
            self._cast_head = None

    def halve_budget(self) -> int:
        """Makes later parts half as large, at least a token; returns the token budget."""
        self._token_budget = max(1, self._token_budget // 2)
        return self._token_budget

    def score(self, part: TokenBatch, *, wants_entropy: bool = True) -> TokenScores:
        """Scores every loss token given the tokens before it, as the batch's sampling says; on the model's device.

        Raises:
            ValueError: If a sequence begins with a loss token.
        """
        tree = plant(part)
        scoring = Scoring(
            chunk=self._logit_chunk,
            dtype=self._head_dtype,
            temperature=part.temperature,
            top_k=part.top_k,
            top_p=part.top_p,
            wants_entropy=wants_entropy,
        )
        hidden = self._hidden(tree)[tree.predictors_L]
        logprobs, entropies = token_logprobs(
            self._head, hidden, part.token_ids[part.loss_mask], scoring, self._cast_head
        )
        zeros_N = torch.zeros(part.token_ids.numel(), dtype=logprobs.dtype, device=self.device)
        return TokenScores(
            logprobs_N=zeros_N.masked_scatter(part.loss_mask, logprobs),
            entropy_N=zeros_N.masked_scatter(part.loss_mask, entropies),
            num_computed_tokens=tree.token_ids_M.numel(),
        )

    @torch.no_grad()
    def logprobs(self, batch: TokenBatch) -> Tensor:
        """Log-probabilities `[N]` of the loss tokens as the batch's sampling says, without gradient; 0 elsewhere.

        Raises:
            FloatingPointError: One of them is not finite.
        """
        logprobs_N = torch.zeros(batch.token_ids.numel(), device=batch.token_ids.device)
        with self.casting_once():
            for sequences in self.parts(batch):
                scores = self.score(batch.select(sequences).to(self.device), wants_entropy=False)
                logprobs_N[batch.places(sequences)] = scores.logprobs_N.to(logprobs_N)
                if not bool(torch.isfinite(scores.logprobs_N).all()):
                    raise FloatingPointError(f"the log-probs of sequences {sequences} are not finite")
        return logprobs_N

    def _hidden(self, tree: PrefixTree) -> Tensor:
        """Last hidden states `[M, H]` of the tokens of a tree."""
        with self._autocast():
            output = self._decoder(
                input_ids=tree.token_ids_M[None], position_ids=tree.position_ids_M[None], use_cache=False, tree=tree
            )
        return output.last_hidden_state[0]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16)

    @torch.no_grad()
    def _check(self) -> None:
        """Scores two sequences that share a token both ways.

        Models that scale or cap their logits behind the head, or whose attention does not see the tree, would be
        trained on other numbers than they sample from.
        """
        name = type(self._model).__name__
        if not isinstance(self._head, nn.Linear):
            raise ValueError(f"{name}: its output embedding is a {type(self._head).__name__}, expected nn.Linear")
        trunk, branch = Segment(length=1, prefix=None), Segment(length=2, prefix=0)
        tree = PrefixTree(
            token_ids_M=torch.tensor([0, 1, 2, 3, 4], device=self.device),
            position_ids_M=torch.tensor([0, 1, 2, 1, 2], device=self.device),
            predictors_L=torch.tensor([], dtype=torch.int64, device=self.device),
            segments=(trunk, branch, branch),
        )
        rows = torch.tensor([[0, 1, 2], [0, 3, 4]], device=self.device)
        hidden = self._hidden(tree)
        with self._autocast():
            expected = self._model(input_ids=rows, use_cache=False)
            alone = self._decoder(input_ids=rows, use_cache=False).last_hidden_state
            logits = self._head(alone)
        if not torch.allclose(logits, expected.logits, rtol=1e-2, atol=1e-3):
            raise ValueError(f"{name} changes its logits behind the output embedding")
        wanted = alone[:, 1:].flatten(0, 1)
        # Half precision rounds by less than that, and a wrong key is no rounding.
        if not (hidden[1:] - wanted).norm() <= 0.05 * wanted.norm():
            raise ValueError(f"{name} does not hand its attention over to transformers' attention functions")
