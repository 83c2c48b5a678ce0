"""Samples groups of trajectories: tau_1..G ~ pi_old with the tools in the loop."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P, check_truncation
from turnwise.protocols import EngineSession, EnvironmentPool, Renderer, RolloutEngine
from turnwise.rollout.episode import Episode, RolloutLimits
from turnwise.seeding import derive_seed
from turnwise.types import Group, Isolation, Problem, Sampling
from turnwise.watchdog import Work, under_way


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """How many trajectories a step samples, and what bounds each of them."""

    num_problems: int = 8
    """Problems per step (P)."""
    group_size: int = 8
    """Trajectories per problem (G); a step trains on P x G trajectories."""
    max_turns: int = 4
    """Turns after which a trajectory is cut and counts as wrong."""
    max_tokens: int = 224
    """Tokens of a whole trajectory, prompt and tool output included, after which it is cut and counts as wrong."""
    temperature: float = 1.0
    """Sampling temperature; the update scores tokens at the same temperature."""
    top_k: int = NO_TOP_K
    """Only the so many likeliest tokens can be sampled; 0: all. The update scores tokens among the same ones."""
    top_p: float = NO_TOP_P
    """Only the likeliest tokens that together have this probability can be sampled; 1: all. Scored likewise."""

    def __post_init__(self) -> None:
        for name in ("num_problems", "group_size", "max_turns", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.{name}={getattr(self, name)}: expected >= 1")
        if not self.temperature > 0:
            raise ValueError(f"rollout.temperature={self.temperature}: expected > 0 (greedy rollouts cannot explore)")
        check_truncation(top_k=self.top_k, top_p=self.top_p, prefix="rollout.")


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What one call of the sampler gave: groups in the order of the problems, and where the seconds went.

    `tool_s` are the seconds in which at least one tool ran, most of them while the engine sampled other trajectories.
    """

    groups: list[Group]
    wall_s: float
    tool_s: float

    @property
    def num_sampled_tokens(self) -> int:
        """Tokens that the policy sampled, over all trajectories."""
        return sum(
            turn.span[1] - turn.span[0]
            for group in self.groups
            for trajectory in group.trajectories
            for turn in trajectory.turns
        )


class Sampler(Protocol):
    """Samples groups of trajectories; `RolloutSampler` in one process, `divided.DividedSampler` in several."""

    @property
    def isolation(self) -> Isolation | None:
        """How the programs of tools are kept apart; None where there are none."""
        ...

    async def sample(
        self,
        problems: Sequence[Problem],
        *,
        group_size: int,
        temperature: float,
        seed: int,
        top_k: int = NO_TOP_K,
        top_p: float = NO_TOP_P,
    ) -> Rollout:
        """Groups of `group_size` trajectories, in the order of the problems."""
        ...


class RolloutSampler:
    """Runs all episodes side by side, each at its own pace: while the tool of one runs, others are sampled.

    Every session is open before the first turn is asked for, and each asks for nothing but its own next turn. With an
    engine whose batches follow from the requests alone, the same command gives the same trajectories, bit for bit.
    """

    def __init__(
        self, *, engine: RolloutEngine, environments: EnvironmentPool, renderer: Renderer, limits: RolloutLimits
    ) -> None:
        self._engine = engine
        self._environments = environments
        self._renderer = renderer
        self._limits = limits

    @property
    def isolation(self) -> Isolation | None:
        """How the programs of tools are kept apart; None where there are none."""
        return self._environments.isolation

    async def sample(
        self,
        problems: Sequence[Problem],
        *,
        group_size: int,
        temperature: float,
        seed: int,
        top_k: int = NO_TOP_K,
        top_p: float = NO_TOP_P,
    ) -> Rollout:
        """Samples `group_size` trajectories of each problem. When one of them fails, all end.

        Args:
            problems: P problems with distinct ids.
            group_size: G.
            temperature: Sampling temperature; 0 is greedy.
            seed: Every turn draws from `derive_seed(seed, problem id, sample index, turn index)`.
            top_k: So many of the likeliest tokens can be sampled; 0: all.
            top_p: Of the likeliest tokens as many can be sampled as together have this probability; 1: all.

        Returns:
            P groups of G trajectories each, in order.
        """
        started = perf_counter()
        tools = _Stopwatch()

        async def run(episode: Episode, session: EngineSession) -> None:
            while episode.stop_reason is None:
                sampling = Sampling(
                    temperature=temperature,
                    max_new_tokens=episode.num_tokens_left,
                    seed=derive_seed(seed, episode.problem.id, episode.sample_index, len(episode.turns)),
                    top_k=top_k,
                    top_p=top_p,
                )
                with under_way(Work.engine):
                    completion = await session.generate(episode.token_ids, sampling)
                with tools.running(), under_way(Work.tool):
                    await episode.advance(completion)
            session.close()
            await episode.close()

        episodes = [
            Episode(problem, index, self._environments.episode(problem), self._renderer, self._limits)
            for problem in problems
            for index in range(group_size)
        ]
        sessions = [self._engine.session() for _ in episodes]
        tasks = [asyncio.create_task(run(*pair)) for pair in zip(episodes, sessions, strict=True)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task, session in zip(tasks, sessions, strict=True):
                task.cancel()
                session.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(episode.close() for episode in episodes))
        groups = [
            Group(problem=problem, trajectories=tuple(e.trajectory() for e in episodes[start : start + group_size]))
            for problem, start in zip(problems, range(0, len(episodes), group_size), strict=True)
        ]
        return Rollout(groups=groups, wall_s=perf_counter() - started, tool_s=tools.seconds)


class _Stopwatch:
    """Seconds in which at least one of several things ran."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._num_running = 0
        self._started = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """One of them runs."""
        if self._num_running == 0:
            self._started = perf_counter()
        self._num_running += 1
        try:
            yield
        finally:
            self._num_running -= 1
            if self._num_running == 0:
                self.seconds += perf_counter() - self._started
