"""A change of the weights reaches the engine, and nothing of the weights before answers any more."""

import asyncio
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P
from turnwise.preflight.agreement import Bounds, distances
from turnwise.preflight.finding import Finding
from turnwise.protocols import Policy, PolicyLoss, RolloutEngine
from turnwise.seeding import derive_seed
from turnwise.types import Completion, Group, Sampling, TokenBatch

NUM_TOKENS = 16
"""Tokens that the engine is asked for after each transcript."""
NUM_TRANSCRIPTS = 8
FIRST_RATE, RATE_FACTOR, NUM_RATES = 1e-4, 4.0, 6
"""Learning rates that are tried, one after the other, until the log-probs have moved visibly: up to 0.1."""
VISIBLE = 4
"""The log-probs have moved when their mean distance is so many times what rounding may do to any or in the mean."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the engine is asked: transcripts that it has seen before, and how it samples from them."""

    transcripts: tuple[tuple[int, ...], ...]
    temperature: float
    top_k: int = NO_TOP_K
    top_p: float = NO_TOP_P
    seed: int = 0

    @classmethod
    def after(cls, groups: Sequence[Group], *, temperature: float, top_k: int, top_p: float, seed: int) -> "Asked":
        """The longest transcripts of the groups up to their last turns, of which an engine may hold keys and values."""
        turns = [(one, one.turns[-1].span[0]) for group in groups for one in group.trajectories if one.turns]
        transcripts = dict.fromkeys(one.token_ids[:start] for one, start in turns)
        longest = sorted(transcripts, key=len, reverse=True)[:NUM_TRANSCRIPTS]
        return cls(transcripts=tuple(longest), temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)


async def check_handover(
    policy: Policy,
    engine: RolloutEngine,
    batch: TokenBatch,
    *,
    loss: PolicyLoss,
    asked: Asked,
    bounds: Bounds,
    finding: Finding,
) -> None:
    """Changes the weights by optimiser steps, hands them over, asks again, and puts the old weights back.

    An adapter changes alone, since it alone is trained. The engine is judged by what it samples: its log-probs must be
    those that the trainer finds for the same tokens with the new weights, and not those with the old.

    Args:
        policy: As the run begins with it; it is so again afterwards.
        engine: With the policy's weights as version 0.
        batch: Sampled tokens, to differentiate.
        loss: The run's.
        asked: What the engine is asked each time.
        bounds: What rounding may do.
        finding: Where to say it.
    """
    await engine.load_weights(policy.weights(), 0)
    await _ask(engine, asked)  # whatever an engine keeps, it keeps of the old weights now
    with unchanged(policy):
        moved = _move(policy, batch, loss, wanted=VISIBLE * max(bounds.each, bounds.mean))
        if moved is None:
            finding.fail(
                f"optimiser steps at learning rates up to {FIRST_RATE * RATE_FACTOR ** (NUM_RATES - 1):.1g} do not "
                f"move the log-probs of the tokens that they train on",
                "nothing would be learnt: see which weights are trained (model.lora_rank) and whether the loss "
                "reaches them",
            )
            return
        await engine.load_weights(policy.weights(), 1)
        answers = await _ask(engine, asked)
        with_new = distances(policy, answers)
    with_old = distances(policy, answers)
    finding.note(f"an optimiser step moved the log-probs by {moved:.1e} nats in the mean, and was taken back")
    finding.note(
        f"after its hand-over the engine is {with_new.mean():.1e} nats from the new weights and {with_old.mean():.1e} "
        f"from the old"
    )
    if not bounds.hold(with_new):
        if bounds.hold(with_old):
            finding.fail(
                "the engine still samples by the old weights",
                "load_weights of the engine must take every tensor; with model.lora_rank the adapter is merged first",
            )
        else:
            finding.fail(
                "its log-probs are neither those of the new weights nor those of the old",
                "the engine took a part of the weights, or answers from keys and values of the old ones: its prefix "
                "cache must be emptied with every hand-over",
            )
        return
    await engine.load_weights(policy.weights(), 2)
    back = distances(policy, await _ask(engine, asked))
    if not bounds.hold(back):
        finding.fail(
            f"the old weights were handed back, and the engine is {back.mean():.1e} nats from them",
            "load_weights of the engine must take every tensor each time",
        )


@contextmanager
def unchanged(policy: Policy) -> Iterator[None]:
    """Afterwards the policy has the weights and the optimiser that it has now; a copy lies on the CPU meanwhile."""
    state = copy.deepcopy(policy.state_dict())
    weights = {name: tensor.to("cpu", copy=True) for name, tensor in policy.weights().items()}
    try:
        yield
    finally:
        for name, tensor in policy.weights().items():  # views; of an adapter's merged copies nothing is to be put back
            tensor.copy_(weights[name])
        policy.load_state_dict(state)


def _move(policy: Policy, batch: TokenBatch, loss: PolicyLoss, *, wanted: float) -> float | None:
    """Trains on random advantages until the log-probs have moved by `wanted`; how far they have, None if not so far."""
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(batch.advantages.shape, generator=generator) * batch.loss_mask
    before = _logprobs(policy, batch)
    for number in range(NUM_RATES):
        policy.set_learning_rate(FIRST_RATE * RATE_FACTOR**number)
        policy.update(replace(batch, advantages=advantages), loss)
        moved = (_logprobs(policy, batch) - before).abs().mean().item()
        if moved >= wanted:
            return moved
    return None


def _logprobs(policy: Policy, batch: TokenBatch) -> Tensor:
    return policy.logprobs(batch)[batch.loss_mask].double().cpu()


async def _ask(engine: RolloutEngine, asked: Asked) -> TokenBatch:
    """Continues every transcript by a few tokens, which are the loss tokens of the batch.

    Raises:
        ValueError: The engine sampled nothing.
    """
    sessions = [engine.session() for _ in asked.transcripts]

    async def answer(number: int) -> Completion:
        sampling = Sampling(
            temperature=asked.temperature,
            max_new_tokens=NUM_TOKENS,
            seed=derive_seed(asked.seed, "handover", number),
            top_k=asked.top_k,
            top_p=asked.top_p,
        )
        try:
            return await sessions[number].generate(asked.transcripts[number], sampling)
        finally:
            sessions[number].close()

    answers = await asyncio.gather(*map(answer, range(len(sessions))))
    await engine.rest()
    pairs = [(prompt, one) for prompt, one in zip(asked.transcripts, answers, strict=True) if one.token_ids]
    if not pairs:
        raise ValueError("the engine sampled nothing after transcripts of its own: rollout.max_tokens, the positions")
    return continued(pairs, asked)


def continued(pairs: Sequence[tuple[Sequence[int], Completion]], asked: Asked) -> TokenBatch:
    """Packs prompts with what was sampled after them."""
    lengths = torch.tensor([len(prompt) + len(one.token_ids) for prompt, one in pairs])
    turn_index = torch.tensor([turn for prompt, one in pairs for turn in [-1] * len(prompt) + [0] * len(one.token_ids)])
    logprobs = [number for prompt, one in pairs for number in (*(0.0,) * len(prompt), *one.logprobs)]
    sequence_index = torch.arange(len(pairs)).repeat_interleave(lengths)
    edges = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return TokenBatch(
        token_ids=torch.tensor([token for prompt, one in pairs for token in (*prompt, *one.token_ids)]),
        position_ids=torch.arange(len(turn_index)) - edges[sequence_index],
        loss_mask=turn_index >= 0,
        advantages=torch.zeros(len(turn_index)),
        behaviour_logprobs=torch.tensor(logprobs),
        turn_index=turn_index,
        sequence_index=sequence_index,
        cu_seqlens=edges.to(torch.int32),
        num_loss_tokens=int((turn_index >= 0).sum()),
        num_loss_turns=len(pairs),
        num_loss_sequences=len(pairs),
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
    )
