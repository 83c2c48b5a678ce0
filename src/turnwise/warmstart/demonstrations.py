"""Turns that were written and not sampled, as the trajectories that sampling would have recorded."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from turnwise.protocols import Demonstrator, Environment, EnvironmentPool, Renderer
from turnwise.rollout.episode import Episode, RolloutLimits
from turnwise.types import (
    Completion,
    FinishReason,
    Message,
    Problem,
    StepResult,
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
    return [await as_trajectory(one, renderer, limits) for one in demonstrations]


async def as_trajectory(demonstration: Demonstration, renderer: TurnEncoder, limits: RolloutLimits) -> Trajectory:
    """One demonstration as the sampler would have recorded it; without a turn where its opening fills the limit."""
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
