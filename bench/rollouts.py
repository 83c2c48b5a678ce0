"""Times of sampling."""

import asyncio
from collections.abc import Sequence
from time import perf_counter

from turnwise.protocols import RolloutEngine
from turnwise.types import Sampling


async def rollout_seconds(engine: RolloutEngine, prompts: Sequence[Sequence[int]], num_tokens: int) -> float:
    """Of sampling `num_tokens` tokens after each prompt, all side by side; the engine is at rest before and after."""
    sessions = [engine.session() for _ in prompts]
    started = perf_counter()
    try:
        await asyncio.gather(
            *(
                session.generate(prompt, Sampling(temperature=1.0, max_new_tokens=num_tokens, seed=seed))
                for seed, (session, prompt) in enumerate(zip(sessions, prompts, strict=True))
            )
        )
        return perf_counter() - started
    finally:
        for session in sessions:
            session.close()
        await engine.rest()
