"""Tools beside decoding: they overlap, and still nothing depends on how long they take."""

import asyncio
from random import Random

from tiny_models import early_stops, recorded_passes, sampling, small_model, start_engine
from turnwise.engine.hf import HFRolloutEngine, HFSession
from turnwise.types import Completion, FinishReason

NEVER = frozenset({-1})


async def trajectory(session: HFSession, prompt: tuple[int, ...], number: int, sleep: Random) -> list[Completion]:
    """Up to three turns with tools that take up to 4 ms; closed after a pause, too."""
    completions = []
    token_ids = prompt
    for turn in range(3):
        budget = 90 - len(token_ids)
        completions.append(await session.generate(token_ids, sampling(10 * number + turn, max_new_tokens=budget)))
        await asyncio.sleep(sleep.choice((0.0, 0.001, 0.004)))
        if completions[-1].finish_reason is not FinishReason.stop:
            break
        token_ids = (*token_ids, *completions[-1].token_ids, *range(200, 203 + number % 4))
    session.close()
    return completions


def sample(engine: HFRolloutEngine, seed: int) -> tuple[list[list[Completion]], list[tuple[int, int]]]:
    _, prompts = early_stops(5)

    async def run() -> tuple[list[list[Completion]], list[tuple[int, int]]]:
        sleep = Random(seed)
        sessions = [engine.session() for _ in range(2 * len(prompts))]
        pairs = zip(sessions, prompts * 2, strict=True)  # each prompt twice
        with recorded_passes() as passes:
            runs = await asyncio.gather(*(trajectory(s, p, n, sleep) for n, (s, p) in enumerate(pairs)))
        await engine.close()
        return list(runs), passes

    return asyncio.run(run())


def test_the_same_requests_give_the_same_bits_whatever_their_tools_take() -> None:
    stop, _ = early_stops(1)
    for settings in ({}, {"tool_ticks": 1}, {"max_batch_size": 3, "tool_ticks": 7}, {"prefill_tokens": 4}):
        results = [sample(start_engine(small_model(), stop, **settings), seed) for seed in range(3)]
        assert results[0] == results[1] == results[2]
        assert sum(len(completions) for completions in results[0][0]) > 20


def test_a_tool_runs_while_others_decode() -> None:
    async def run() -> None:
        engine = start_engine(small_model(), NEVER, tool_ticks=6)
        caller, other = engine.session(), engine.session()
        with recorded_passes() as passes:
            long = asyncio.create_task(other.generate((50,), sampling(1, max_new_tokens=20)))
            first = await caller.generate((40,), sampling(0, max_new_tokens=1))
            while len(passes) < 5:  # the tool ends only after passes that were made without it
                await asyncio.sleep(0.001)
            second = await caller.generate((40, *first.token_ids, 60), sampling(2, max_new_tokens=1))
            caller.close()
            await long
        assert passes[:7] == [(2, 2)] + [(1, 1)] * 5 + [(3, 2)]  # due six passes later; two tokens of its own
        assert len(second.token_ids) == 1
        await engine.close()

    asyncio.run(asyncio.wait_for(run(), timeout=20))


def test_the_engine_waits_for_a_tool_at_the_tick_at_which_its_trajectory_is_due() -> None:
    async def run() -> None:
        engine = start_engine(small_model(), NEVER, tool_ticks=3)
        caller, other = engine.session(), engine.session()
        with recorded_passes() as passes:
            long = asyncio.create_task(other.generate((50,), sampling(1, max_new_tokens=20)))
            await caller.generate((40,), sampling(0, max_new_tokens=1))
            await asyncio.sleep(0.1)
            assert len(passes) == 3
            caller.close()
            await long
        assert len(passes) == 20
        await engine.close()

    asyncio.run(asyncio.wait_for(run(), timeout=20))


def test_where_it_does_not_wait_the_others_go_on_and_a_late_trajectory_joins_when_it_is_back() -> None:
    async def run() -> None:
        engine = start_engine(small_model(), NEVER, tool_ticks=3, waits_for_tools=False)
        late, other = engine.session(), engine.session()
        with recorded_passes() as passes:
            long = asyncio.create_task(other.generate((50,), sampling(1, max_new_tokens=20)))
            first = await late.generate((40,), sampling(0, max_new_tokens=1))
            await long  # while the tool of the late one still runs
            assert len(passes) == 20
            second = await late.generate((40, *first.token_ids, 41), sampling(2, max_new_tokens=2))
            assert len(second.token_ids) == 2
        other.close()
        late.close()
        await engine.close()

    asyncio.run(asyncio.wait_for(run(), timeout=20))
