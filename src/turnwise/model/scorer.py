"""A model that scores packed tokens: the policy while it is trained, or a frozen reference."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from turnwise.model.prefix_tree import PrefixTree, Segment, deal, micro_batches, plant
from turnwise.model.sharding import Sharding
from turnwise.model.token_logprobs import CastHead, Scoring, cast_head, token_logprobs
from turnwise.model.tree_attention import use_tree_attention
from turnwise.ranks import ALONE, Ranks
from turnwise.types import TokenBatch


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """What a model thinks of a batch's loss tokens; both `[N]` and 0 on every other token. Entropy in nats.

    `num_computed_tokens` went through the model: fewer than the batch has where sequences share a prompt.
    """

    logprobs_N: Tensor
    entropy_N: Tensor
    num_computed_tokens: int


class _Inside(nn.Module):
    """Calls functions of a model from within one forward pass, for which its weights are gathered if dealt out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


class TokenScorer:
    """Log-probabilities and entropies of the loss tokens of a batch under one model, in parts of bounded size.

    A part goes through the model as one packed tree (`turnwise.model.prefix_tree`): without padding, and with a prompt
    that several of its sequences share computed once. With several ranks each scores its share of the sequences.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        token_budget: int,
        logit_chunk: int,
        dtype: torch.dtype,
        ranks: Ranks = ALONE,
        sharding: Sharding | None = None,
    ) -> None:
        """Makes the attention of `model` that of trees, deals it out if so wanted, and checks that it can be scored so.

        Args:
            model: A causal language model of transformers on the device on which it scores.
            token_budget: Computed tokens per part; a longer sequence stands alone.
            logit_chunk: Tokens whose logits over the vocabulary exist at the same time.
            dtype: Precision of the passes: float32, or bfloat16 by autocast.
            ranks: Who scores with the same weights; all must call the same methods in the same order.
            sharding: How the model is dealt out over them; None: each has all of it.

        Raises:
            ValueError: If the model's logits are not a linear output embedding applied to its last hidden states, or
                its attention is not the full attention that all layers hand over to transformers.
        """
        self.device = next(model.parameters()).device if sharding is None else sharding.device
        self._model = cast(Any, model)
        self._decoder: nn.Module = self._model.get_decoder()
        self._head: nn.Linear = self._model.get_output_embeddings()
        self._token_budget = token_budget
        self._logit_chunk = logit_chunk
        self._dtype = dtype
        self._head_dtype = torch.bfloat16 if dtype == torch.bfloat16 else self._head.weight.dtype
        self._cast_head: CastHead | None = None
        self._ranks = ranks
        self._is_sharded = sharding is not None
        use_tree_attention(model)
        self._inside = _Inside(model)
        if sharding is not None:
            sharding(self._inside, model)
        self._inside(self._check)

    def parts(self, batch: TokenBatch) -> list[list[int]]:
        """This rank's sequences of `batch` that have a loss token, cut into parts within the token budget.

        Every rank has as many parts, since a pass is everybody's affair where the model is dealt out: the last ones of
        a rank may be empty.
        """
        own = deal(batch, self._ranks.count)[self._ranks.index]
        parts = micro_batches(batch, self._token_budget, own)
        num_parts = max(self._ranks.gather(len(parts)))
        return parts + [[]] * (num_parts - len(parts))

    @contextmanager
    def casting_once(self) -> Iterator[None]:
        """Within it the trained weights are cast to half precision once, not for every part; they must not change.

        Of a model that is dealt out nobody holds the whole head between passes, so it is cast in each.
        """
        if not self._is_sharded:
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
        logprobs, entropies = self._inside(self._score_tokens, tree, part.token_ids[part.loss_mask], scoring)
        zeros_N = torch.zeros(part.token_ids.numel(), dtype=logprobs.dtype, device=self.device)
        return TokenScores(
            logprobs_N=zeros_N.masked_scatter(part.loss_mask, logprobs),
            entropy_N=zeros_N.masked_scatter(part.loss_mask, entropies),
            num_computed_tokens=tree.token_ids_M.numel(),
        )

    def _score_tokens(self, tree: PrefixTree, targets_L: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        hidden_LH = self._hidden(tree)[tree.predictors_L]
        return token_logprobs(self._head, hidden_LH, targets_L, scoring, self._cast_head)

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
        logprobs_N = self._ranks.total(logprobs_N)  # each is 0 on all ranks but one
        if not bool((is_finite_N := torch.isfinite(logprobs_N)).all()):
            sequences = batch.sequence_index[~is_finite_N].unique().tolist()
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


def checkpoint_layers(model: Any) -> None:
    """Switches on the checkpointing of transformers, whose layers do it in training mode only."""
    # The first is the name from transformers 5.23 on, under which the second is deprecated.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True  # of this module alone: those inside it, dropout for one, stay in evaluation mode
