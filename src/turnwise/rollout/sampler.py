"""Samples groups of trajectories: tau_1..G ~ pi_old with the tools in the loop."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from turnwise.protocols import EnvironmentPool, Renderer, RolloutEngine
from turnwise.rollout.episode import Episode, RolloutLimits
from turnwise.seeding import derive_seed
from turnwise.types import Group, Problem, Sampling


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

    def __post_init__(self) -> None:
        for name in ("num_problems", "group_size", "max_turns", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.{name}={getattr(self, name)}: expected >= 1")
        if not self.temperature > 0:
            raise ValueError(f"rollout.temperature={self.temperature}: expected > 0 (greedy rollouts cannot explore)")


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What one call of the sampler gave: groups in the order of the problems, and where the seconds went."""

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


class RolloutSampler:
    """Runs all episodes turn by turn in lockstep.

    Turn k of every live episode is sampled as one wave, then their tools run side by side, then turn k + 1
    begins. What is batched together is thereby a function of the problems, the weights and the seed, never of
    how long a tool took: the same command gives the same trajectories, bit for bit.
    """

    def __init__(
        self, *, engine: RolloutEngine, environments: EnvironmentPool, renderer: Renderer, limits: RolloutLimits
    ) -> None:
        self._engine = engine
        self._environments = environments
        self._renderer = renderer
        self._limits = limits

    async def sample(self, problems: Sequence[Problem], *, group_size: int, temperature: float, seed: int) -> Rollout:
        """Samples `group_size` trajectories of each problem.

        Args:
            problems: P problems with distinct ids.
            group_size: G.
            temperature: Sampling temperature; 0 is greedy.
            seed: Every turn draws from `derive_seed(seed, problem id, sample index, turn index)`.

        Returns:
            P groups of G trajectories each, in order.
        """
        started = time.perf_counter()
        tool_s = 0.0
        episodes = [
            Episode(problem, index, self._environments.episode(problem), self._renderer, self._limits)
            for problem in problems
            for index in range(group_size)
        ]
        try:
            while live := [episode for episode in episodes if episode.stop_reason is None]:
                completions = await asyncio.gather(
                    *(self._engine.generate(e.token_ids, _sampling(e, temperature, seed)) for e in live)
                )
                tools_started = time.perf_counter()
                await asyncio.gather(*(e.advance(c) for e, c in zip(live, completions, strict=True)))
                tool_s += time.perf_counter() - tools_started
        finally:
            await asyncio.gather(*(episode.close() for episode in episodes))
        groups = [
            Group(problem=problem, trajectories=tuple(e.trajectory() for e in episodes[start : start + group_size]))
            for problem, start in zip(problems, range(0, len(episodes), group_size), strict=True)
        ]
        return Rollout(groups=groups, wall_s=time.perf_counter() - started, tool_s=tool_s)


def _sampling(episode: Episode, temperature: float, seed: int) -> Sampling:
    return Sampling(
        temperature=temperature,
        max_new_tokens=episode.num_tokens_left,
        seed=derive_seed(seed, episode.problem.id, episode.sample_index, len(episode.turns)),
    )
