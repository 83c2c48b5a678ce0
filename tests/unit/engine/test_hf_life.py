"""The life of the engine: weights that change, callers that leave, errors, its end."""

import asyncio
import math
import time
from threading import Event
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tiny_models import (
    VOCAB_SIZE,
    assert_scored_as_from_scratch,
    recorded_passes,
    sampling,
    small_model,
    start_engine,
    turns,
)
from turnwise.engine.packed_model import PackedModel
from turnwise.engine.schedule import Schedule
from turnwise.types import Completion

PROMPTS = ((20, 30, 40), (50,), (7, 8, 9, 10, 11, 12, 13), (20, 30, 40))
NO_STOP = frozenset({VOCAB_SIZE})


def test_loading_weights_moves_them_and_the_version() -> None:
    old, new = small_model(seed=0), small_model(seed=1)

    async def load() -> None:
        engine = start_engine(old)
        (first,) = await turns(engine, PROMPTS[:1])
        await engine.load_weights(new.state_dict(), version=3)
        (second,) = await turns(engine, PROMPTS[:1])
        assert (first.policy_version, second.policy_version) == (0, 3)
        assert_scored_as_from_scratch(old, PROMPTS[0], first)
        assert_scored_as_from_scratch(new, PROMPTS[0], second)

    asyncio.run(load())


def test_the_engine_copies_weights_instead_of_sharing_them() -> None:
    trained = small_model(seed=1)

    async def sample_twice() -> None:
        engine = start_engine(small_model(seed=0))
        await engine.load_weights(trained.state_dict(), version=1)
        before = await turns(engine, PROMPTS)
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.zero_()
        assert await turns(engine, PROMPTS) == before

    asyncio.run(sample_twice())


def test_weights_cannot_change_while_a_session_is_open() -> None:
    async def interfere() -> None:
        engine = start_engine(small_model())
        session = engine.session()
        with pytest.raises(RuntimeError, match="while turns are being sampled"):
            await engine.load_weights(small_model().state_dict(), version=1)
        session.close()
        await engine.load_weights(small_model().state_dict(), version=1)

    asyncio.run(interfere())


def test_seconds_of_passes_and_of_loading_count_as_busy() -> None:
    async def work() -> None:
        engine = start_engine(small_model())
        seconds = [engine.busy_s]
        await turns(engine, PROMPTS)
        seconds.append(engine.busy_s)
        await engine.load_weights(small_model().state_dict(), version=1)
        seconds.append(engine.busy_s)
        await asyncio.sleep(0.01)
        assert engine.busy_s == seconds[-1]
        assert 0 == seconds[0] < seconds[1] < seconds[2]

    asyncio.run(work())


def test_a_cancelled_caller_leaves_the_others_alone_and_its_row_the_batch() -> None:
    model = small_model()

    async def cancel_one() -> list[Completion | BaseException]:
        engine = start_engine(model, NO_STOP)
        sessions = [engine.session() for _ in PROMPTS]
        calls = [
            s.generate(p, sampling(i, max_new_tokens=40))
            for i, (s, p) in enumerate(zip(sessions, PROMPTS, strict=True))
        ]
        tasks = [asyncio.create_task(call) for call in calls]
        with recorded_passes() as passes:
            while not passes:
                await asyncio.sleep(0)
            tasks[1].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert passes[-1] == (3, 3)
        await engine.close()
        return results

    results = asyncio.run(cancel_one())
    assert isinstance(results[1], asyncio.CancelledError)
    expected = asyncio.run(turns(start_engine(model, NO_STOP), PROMPTS, max_new_tokens=40))
    for i in (0, 2, 3):
        result = results[i]
        assert isinstance(result, Completion)
        assert result.token_ids == expected[i].token_ids


def test_calls_get_through_while_a_pass_runs() -> None:
    async def call() -> None:
        engine = start_engine(small_model(), NO_STOP)
        decoding, other = engine.session(), engine.session()
        is_held, may_go_on = Event(), Event()
        logits = PackedModel.logits

        def held(*args: Any) -> torch.Tensor:
            is_held.set()
            assert may_go_on.wait(10)
            return logits(*args)

        with patch.object(PackedModel, "logits", held):
            first = asyncio.create_task(decoding.generate((40,), sampling(max_new_tokens=2)))
            other.close()
            await asyncio.to_thread(is_held.wait, 10)
            late = engine.session()  # the pass is under way until all of this is done
            second = asyncio.create_task(late.generate((50,), sampling(max_new_tokens=1)))
            engine.session().close()
            await asyncio.sleep(0)
            may_go_on.set()
            assert len((await first).token_ids) == 2
            assert len((await second).token_ids) == 1
        decoding.close()
        late.close()
        await engine.close()

    asyncio.run(asyncio.wait_for(call(), timeout=20))


def test_closing_the_engine_cancels_what_is_under_way_and_it_is_done() -> None:
    async def close() -> None:
        engine = start_engine(small_model(), NO_STOP)
        session, other = engine.session(), engine.session()
        task = asyncio.create_task(session.generate((40,), sampling(max_new_tokens=90)))
        other.close()
        await asyncio.sleep(0.01)
        await engine.close()
        await engine.close()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RuntimeError, match="closed"):
            engine.session()
        with pytest.raises(RuntimeError, match="closed"):
            await session.generate((40,), sampling())
        with pytest.raises(RuntimeError, match="closed"):
            await engine.load_weights({}, version=1)

    asyncio.run(close())


def test_broken_weights_are_an_error_for_every_caller_and_the_engine_recovers() -> None:
    good = small_model()
    broken = {name: torch.full_like(tensor, math.nan) for name, tensor in good.state_dict().items()}

    async def break_and_mend() -> None:
        engine = start_engine(small_model())
        await engine.load_weights(broken, version=1)
        sessions = [engine.session() for _ in PROMPTS]
        calls = (s.generate(p, sampling()) for s, p in zip(sessions, PROMPTS, strict=True))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [FloatingPointError] * 4
        assert "not finite after" in str(results[0])
        for session in sessions:
            session.close()
        await engine.load_weights(good.state_dict(), version=2)
        (completion,) = await turns(engine, PROMPTS[:1])
        assert completion.policy_version == 2
        assert_scored_as_from_scratch(good, PROMPTS[0], completion)

    asyncio.run(break_and_mend())


@pytest.mark.parametrize("loop_turns", [0, 1, 2, 3, 5])
def test_closing_right_after_a_request_cancels_it(loop_turns: int) -> None:
    async def close() -> None:
        engine = start_engine(small_model(), NO_STOP)
        task = asyncio.create_task(engine.session().generate((40,), sampling(max_new_tokens=90)))
        for _ in range(loop_turns):
            await asyncio.sleep(0)
        await engine.close()
        with pytest.raises((asyncio.CancelledError, RuntimeError)):
            await task

    asyncio.run(asyncio.wait_for(close(), timeout=20))


def test_what_is_sampled_with_new_weights_bears_their_version_though_the_loop_is_busy() -> None:
    async def load() -> None:
        engine = start_engine(small_model(), NO_STOP)
        loading = asyncio.create_task(engine.load_weights(small_model(seed=1).state_dict(), version=7))
        await asyncio.sleep(0)  # it is on its way
        session = engine.session()
        turn = asyncio.create_task(session.generate((40,), sampling(max_new_tokens=1)))
        for _ in range(3):
            await asyncio.sleep(0)
        time.sleep(0.3)  # weights and pass are done before the loop hears of either
        assert (await turn).policy_version == 7
        await loading
        session.close()
        await engine.close()

    asyncio.run(load())


def test_tools_that_are_not_waited_for_leave_the_thread_at_rest_while_no_slot_is_free() -> None:
    async def wait() -> int:
        engine = start_engine(small_model(), NO_STOP, max_batch_size=1, waits_for_tools=False)
        first, second = engine.session(), engine.session()
        late = asyncio.create_task(second.generate((50,), sampling(1, max_new_tokens=1)))
        await first.generate((40,), sampling(0, max_new_tokens=1))
        with patch.object(Schedule, "plan", autospec=True, side_effect=Schedule.plan) as plan:
            await asyncio.sleep(0.2)  # the tool of the first, which keeps its slot
            num_plans = plan.call_count
            first.close()
            await late
        second.close()
        await engine.close()
        return num_plans

    assert asyncio.run(asyncio.wait_for(wait(), timeout=20)) < 10
