"""A small tokenizer, small random models, packed batches and turns for the tests of models and engines."""

import asyncio
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from turnwise.engine.hf import HFEngine, HFRolloutEngine
from turnwise.engine.packed_model import PackedModel
from turnwise.engine.packed_pass import PackedPass
from turnwise.model.chat import ChatRenderer
from turnwise.model.policy import TorchPolicy
from turnwise.model.tiny import train_tokenizer
from turnwise.protocols import EngineSession
from turnwise.types import Completion, FinishReason, LossOutput, Sampling, TokenBatch

TEXTS = ("What is 12 + 34?", "```python\nprint(12 + 34)\n```", "The answer is \\boxed{46}.", "import math") * 4
VOCAB_SIZE = 293


@cache
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, VOCAB_SIZE)


@cache
def renderer() -> ChatRenderer:
    return ChatRenderer(tokenizer(), name="tiny")


def small_model(seed: int = 0, family: str = "Llama", **overrides: Any) -> Any:
    """Two layers with random weights large enough that every token matters to the next."""
    import transformers

    settings: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    config = getattr(transformers, f"{family}Config")(**(settings | overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def small_policy(model: Any = None, **settings: Any) -> TorchPolicy:
    """A policy of a small model, its adapter with the same random weights in every call."""
    defaults: dict[str, Any] = {
        "learning_rate": 1e-2,
        "weight_decay": 0.0,
        "betas": (0.9, 0.95),
        "max_grad_norm": 1e9,
        "token_budget": 1000,
        "logit_chunk": 1000,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TorchPolicy(small_model() if model is None else model, renderer(), **(defaults | settings))


def token_batch(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float = 1.0) -> TokenBatch:
    """Packs (token ids, loss mask of 0 and 1) pairs; token n of the batch has the advantage (n % 5) - 2."""
    lengths = [len(token_ids) for token_ids, _ in sequences]
    mask = torch.tensor([bit for _, bits in sequences for bit in bits], dtype=torch.bool)
    advantages = torch.arange(sum(lengths)).remainder(5).float() - 2
    return TokenBatch(
        token_ids=torch.tensor([token for token_ids, _ in sequences for token in token_ids], dtype=torch.int64),
        position_ids=torch.tensor([n for length in lengths for n in range(length)], dtype=torch.int64),
        loss_mask=mask,
        advantages=advantages * mask,
        behaviour_logprobs=torch.zeros(sum(lengths)),
        turn_index=mask.long() - 1,
        sequence_index=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64)),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        num_loss_tokens=int(mask.sum()),
        num_loss_turns=len(lengths),
        num_loss_sequences=len(lengths),
        temperature=temperature,
    )


@dataclass(frozen=True)
class PolicyGradientLoss:
    """-sum(A log pi) / loss tokens of the step, times `scale`: the simplest additive loss."""

    scale: float = 1.0

    def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
        loss = (
            -(policy_logprobs_N * batch.advantages)[batch.loss_mask].sum() / max(batch.num_loss_tokens, 1) * self.scale
        )
        return LossOutput(loss=loss, metrics={"loss/value": loss.item()})


def reference_logprobs(model: Any, token_ids: Sequence[int], temperature: float = 1.0) -> Tensor:
    """log pi of each token given those before it, from one forward pass over the whole sequence; the first gets 0."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(token_ids)])).logits[0].double() / temperature
    chosen = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(token_ids)[1:, None]).squeeze(1)
    return torch.cat([torch.zeros(1, dtype=torch.float64), chosen])


def start_engine(model: Any, stop: frozenset[int] = frozenset({1}), **settings: Any) -> HFRolloutEngine:
    """An engine with a copy of the model: an engine's own can do nothing else any more."""
    return HFEngine(**settings).start(copy.deepcopy(model), stop, max_tokens=1)


def sampling(seed: int = 0, temperature: float = 1.0, max_new_tokens: int = 6, **truncation: Any) -> Sampling:
    return Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed, **truncation)


async def turns(engine: HFRolloutEngine, prompts: Sequence[Sequence[int]], **settings: Any) -> list[Completion]:
    """One turn after each prompt; turn i draws from seed i."""

    async def run(number: int, session: EngineSession) -> Completion:
        try:
            return await session.generate(prompts[number], sampling(number, **settings))
        finally:
            session.close()

    sessions = [engine.session() for _ in prompts]
    return await asyncio.gather(*(run(number, session) for number, session in enumerate(sessions)))


async def trajectories(
    engine: HFRolloutEngine,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    max_tokens: int = 90,
    **settings: Any,
) -> list[list[Completion]]:
    """A trajectory from each prompt, each at its own pace: a turn, the first reply, a turn, ..., the last turn.

    Turn k of trajectory i draws from seed 100 k + i. All turns must end with a stop token.
    """

    async def run(number: int, session: EngineSession) -> list[Completion]:
        token_ids, completions = tuple(prompts[number]), list[Completion]()
        for k, reply in enumerate((*replies, ())):
            way = sampling(100 * k + number, max_new_tokens=max_tokens - len(token_ids), **settings)
            completions.append(await session.generate(token_ids, way))
            assert completions[-1].finish_reason is FinishReason.stop
            token_ids = (*token_ids, *completions[-1].token_ids, *reply)
        session.close()
        return completions

    sessions = [engine.session() for _ in prompts]
    return await asyncio.gather(*(run(number, session) for number, session in enumerate(sessions)))


@contextmanager
def recorded_passes() -> Iterator[list[tuple[int, int]]]:
    """Tokens that went through the model and tokens that were drawn, of every pass."""
    sizes: list[tuple[int, int]] = []
    logits = PackedModel.logits

    def recording(model: PackedModel, packed: PackedPass, rows: Sequence[int]) -> Tensor:
        sizes.append((packed.token_ids.numel(), len(rows)))
        return logits(model, packed, rows)

    with patch.object(PackedModel, "logits", recording):
        yield sizes


def early_stops(num_rows: int) -> tuple[frozenset[int], list[tuple[int, ...]]]:
    """Stop tokens and prompts of different lengths with which turns of the small model end after a few tokens."""
    return frozenset(range(0, VOCAB_SIZE, 8)), [tuple(range(20, 22 + 3 * row)) for row in range(num_rows)]


def assert_scored_as_from_scratch(
    model: Any, prompt: Sequence[int], completion: Completion, temperature: float = 1.0
) -> None:
    """The recorded log-probs are those of one forward pass over the whole transcript."""
    expected = reference_logprobs(model, (*prompt, *completion.token_ids), temperature)[len(prompt) :]
    torch.testing.assert_close(torch.tensor(completion.logprobs).double(), expected, rtol=0, atol=1e-4)
