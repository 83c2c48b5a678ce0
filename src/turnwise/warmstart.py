"""The tiny policy's beginning: supervised learning on demonstrations of tool use that are flawed on purpose."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from torch import Tensor

from turnwise.protocols import Demonstrator, Environment, EnvironmentPool, Renderer
from turnwise.rollout.episode import Episode, RolloutLimits
from turnwise.rollout.packing import pack
from turnwise.types import (
    Completion,
    FinishReason,
    Group,
    LossOutput,
    Message,
    Problem,
    ScoredGroup,
    StepResult,
    TokenBatch,
    Trajectory,
)

Script = tuple[Problem, Demonstrator]


class TurnEncoder(Renderer, Protocol):
    """A renderer that can also encode a turn that was written and not sampled."""

    def turn_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of a whole turn, the stop token included."""
        ...


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A problem with the turns that were said and what the environment really replied to each."""

    problem: Problem
    opening: tuple[Message, ...]
    turns: tuple[str, ...]
    replies: tuple[StepResult, ...]

    @property
    def texts(self) -> list[str]:
        """Every text of the transcript, for training a tokenizer."""
        replies = [message.content for reply in self.replies for message in reply.messages]
        return [*(message.content for message in self.opening), *self.turns, *replies]


async def demonstrate(problem: Problem, demonstrator: Demonstrator, environments: EnvironmentPool) -> Demonstration:
    """Plays one demonstration against the real environment."""
    episode = environments.episode(problem)
    turns: list[str] = []
    replies: list[StepResult] = []
    try:
        text = demonstrator(None)
        while text is not None:
            reply = await episode.step(text)
            turns.append(text)
            replies.append(reply)
            text = demonstrator(reply.messages[-1].content) if reply.stop_reason is None else None
    finally:
        await episode.close()
    return Demonstration(
        problem=problem, opening=episode.initial_messages(), turns=tuple(turns), replies=tuple(replies)
    )


async def demonstrate_all(
    scripts: Sequence[Script], environments: EnvironmentPool, *, wave: int = 64
) -> list[Demonstration]:
    """Plays every script, `wave` at a time."""
    played: list[Demonstration] = []
    for start in range(0, len(scripts), wave):
        played += await asyncio.gather(
            *(demonstrate(*script, environments) for script in scripts[start : start + wave])
        )
    return played


class Recorded:
    """An environment that replies what it replied before."""

    def __init__(self, demonstration: Demonstration) -> None:
        self._demonstration = demonstration
        self._replies = iter(demonstration.replies)

    def initial_messages(self) -> tuple[Message, ...]:
        """The opening transcript."""
        return self._demonstration.opening

    async def step(self, turn_text: str) -> StepResult:
        """The reply that the turn got."""
        return next(self._replies)

    async def close(self) -> None:
        """Nothing to end."""


async def as_trajectories(
    demonstrations: Iterable[Demonstration], renderer: TurnEncoder, limits: RolloutLimits
) -> list[Trajectory]:
    """The demonstrations as the sampler would have recorded them, had the policy said these turns.

    Args:
        demonstrations: What was said and replied.
        renderer: The policy's chat template.
        limits: Those of the rollouts that follow; what lies beyond them is cut.
    """
    return [await _as_trajectory(one, renderer, limits) for one in demonstrations]


async def _as_trajectory(demonstration: Demonstration, renderer: TurnEncoder, limits: RolloutLimits) -> Trajectory:
    environment: Environment = Recorded(demonstration)
    episode = Episode(demonstration.problem, 0, environment, renderer, limits)
    turns = iter(demonstration.turns)
    while episode.stop_reason is None:
        whole = renderer.turn_ids(next(turns))
        ids = whole[: episode.num_tokens_left]
        finish_reason = FinishReason.stop if ids == whole else FinishReason.length
        logprobs = (0.0,) * len(ids)
        await episode.advance(
            Completion(token_ids=ids, logprobs=logprobs, finish_reason=finish_reason, policy_version=0)
        )
    return episode.trajectory()


def imitation_batch(demonstrated: Iterable[tuple[Problem, Trajectory]]) -> TokenBatch:
    """Packs demonstrations for supervised learning: every turn has advantage 1."""
    scored = []
    for problem, trajectory in demonstrated:
        ones = ((1.0,) * len(trajectory.turns),)
        group = Group(problem=problem, trajectories=(trajectory,))
        scored.append(ScoredGroup(group=group, turn_rewards_GK=ones, terms={}, correct_G=(False,)))
    return pack(scored, [one.turn_rewards_GK for one in scored], temperature=1.0)


def imitation_loss(policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
    """Mean negative log-likelihood of the demonstrated tokens."""
    loss = -(policy_logprobs_N * batch.loss_mask).sum() / max(batch.num_loss_tokens, 1)
    return LossOutput(loss=loss, metrics={"loss/value": float(loss.detach())})


def epochs(num_examples: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of indices, each epoch in an order of its own; what does not fill a batch is left out."""
    rng = Random(seed)
    while True:
        order = rng.sample(range(num_examples), num_examples)
        for start in range(0, num_examples - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def learning_rate_scale(step: int, num_steps: int, num_warmup_steps: int = 20) -> float:
    """Factor of the peak learning rate: linear from 0 over the warm-up, then linear down to a tenth."""
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    return 1.0 - 0.9 * (step - num_warmup_steps) / max(num_steps - num_warmup_steps, 1)
