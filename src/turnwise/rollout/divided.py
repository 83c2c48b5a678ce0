"""Rollouts over several processes: each rank samples its share of the problems, and all get all groups."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P
from turnwise.ranks import Ranks, check_all_well, described
from turnwise.rollout.sampler import Rollout, Sampler
from turnwise.types import Group, Isolation, Problem


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What one rank tells the others of its share; `failure` is empty unless it met an exception."""

    groups: list[Group]
    tool_s: float = 0.0
    failure: str = ""
    is_not_finite: bool = False
    """Whether that was a figure of the model's, which a run may answer by going back, on all ranks."""
    is_stopped: bool = False


class Told:
    """Whether this rank was told to stop, and what it samples now: one for all its samplers."""

    def __init__(self) -> None:
        self.is_told = False
        self.sampling: asyncio.Task[Rollout] | None = None

    def stop(self) -> None:
        """Ends the present call of a sampler or the next one, on every rank, with `asyncio.CancelledError`."""
        self.is_told = True
        if self.sampling is not None:
            self.sampling.cancel()


class DividedSampler:
    """Shares the problems of every call out over the ranks; fulfils `Sampler`.

    A call is where the ranks meet, so it is also where they agree to end: what one of them meets, an exception or a
    signal, ends the call on all.
    """

    def __init__(self, sampler: Sampler, ranks: Ranks, told: Told | None = None) -> None:
        self._sampler = sampler
        self._ranks = ranks
        self.told = told or Told()

    @property
    def isolation(self) -> Isolation | None:
        """How the programs of tools are kept apart on this rank; None where there are none."""
        return self._sampler.isolation

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
        """Samples as `RolloutSampler.sample` does; every rank must ask for the same, and all get the same groups.

        `wall_s` are this rank's seconds until the last one was done, `tool_s` those of the rank with the most.

        Raises:
            RankFailed: Another rank met an exception. One of this rank's own is raised as it is.
            FloatingPointError: This is what some rank met.
            asyncio.CancelledError: Some rank was told to stop.
        """
        started = perf_counter()
        own, error = _Share(groups=[], is_stopped=self.told.is_told), None
        if not self.told.is_told:
            self.told.sampling = asyncio.create_task(
                self._sampler.sample(
                    problems[self._ranks.share(len(problems))],
                    group_size=group_size,
                    temperature=temperature,
                    seed=seed,
                    top_k=top_k,
                    top_p=top_p,
                )
            )
            try:
                rollout = await self.told.sampling
                own = replace(own, groups=rollout.groups, tool_s=rollout.tool_s)
            except asyncio.CancelledError:
                own = replace(own, is_stopped=True)
            except Exception as met:
                error = met
                own = replace(own, failure=described(met), is_not_finite=isinstance(met, FloatingPointError))
            self.told.sampling = None
        shares = await asyncio.to_thread(self._ranks.gather, own)
        if error is not None:
            raise error
        for rank, share in enumerate(shares):
            if share.is_not_finite:
                raise FloatingPointError(f"rank {rank}: {share.failure}")
        check_all_well([share.failure for share in shares])
        if any(share.is_stopped for share in shares):
            raise asyncio.CancelledError
        return Rollout(
            groups=[group for share in shares for group in share.groups],
            wall_s=perf_counter() - started,
            tool_s=max(share.tool_s for share in shares),
        )
