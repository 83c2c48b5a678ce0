import asyncio
import math

import pytest
import torch

from tiny_models import (
    VOCAB_SIZE,
    assert_scored_as_from_scratch,
    early_stops,
    sampling,
    small_model,
    start_engine,
    wave,
)
from turnwise.engine.hf import HFEngine
from turnwise.types import Completion

PROMPTS = ((20, 30, 40), (50,), (7, 8, 9, 10, 11, 12, 13), (20, 30, 40))
NO_STOP = frozenset({VOCAB_SIZE})


def test_loading_weights_moves_them_and_the_version_and_forgets_stored_turns() -> None:
    old, new = small_model(seed=0), small_model(seed=1)
    stop, prompts = early_stops(1)

    async def turns() -> None:
        engine = start_engine(small_model(seed=0), stop)
        (first,) = await wave(engine, prompts, max_new_tokens=40)
        grown = (*prompts[0], *first.token_ids, 100)
        engine.load_weights(new.state_dict(), version=3)
        (second,) = await wave(engine, [grown], first_seed=1)
        assert (first.policy_version, second.policy_version) == (0, 3)
        assert_scored_as_from_scratch(old, prompts[0], first)
        assert_scored_as_from_scratch(new, grown, second)  # keys and values of the old weights would show here

    asyncio.run(turns())


def test_the_engine_copies_weights_instead_of_sharing_them() -> None:
    trained = small_model(seed=1)
    engine = start_engine(small_model(seed=0))
    engine.load_weights(trained.state_dict(), version=1)
    before = asyncio.run(wave(engine, PROMPTS))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.zero_()
    assert asyncio.run(wave(engine, PROMPTS)) == before


def test_weights_must_have_the_models_names_and_shapes_but_tied_ones_need_one_name() -> None:
    engine, weights = start_engine(small_model()), small_model(seed=1).state_dict()
    weights.pop("lm_head.weight")
    engine.load_weights(weights, version=1)
    with pytest.raises(ValueError, match=r"unknown=\['extra'\]"):
        engine.load_weights({**weights, "extra": torch.zeros(1)}, version=2)
    with pytest.raises(ValueError, match=r"norm\.weight has shape \[3\], expected \[32\]"):
        engine.load_weights({**weights, "model.norm.weight": torch.zeros(3)}, version=2)
    weights.pop("model.norm.weight")
    with pytest.raises(ValueError, match=r"missing=\['model\.norm\.weight'\]"):
        engine.load_weights(weights, version=2)


def test_weights_cannot_change_while_turns_are_sampled() -> None:
    async def interfere() -> None:
        engine = start_engine(small_model())
        task = asyncio.create_task(engine.generate((40,), sampling()))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="while turns are being sampled"):
            engine.load_weights(small_model().state_dict(), version=1)
        await task

    asyncio.run(interfere())


def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    model = small_model()

    async def cancel_one() -> list[Completion | BaseException]:
        engine = start_engine(model, NO_STOP)
        tasks = [asyncio.create_task(engine.generate(p, sampling(seed=i))) for i, p in enumerate(PROMPTS)]
        for _ in range(4):
            await asyncio.sleep(0)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(cancel_one())
    assert isinstance(results[1], asyncio.CancelledError)
    expected = asyncio.run(wave(start_engine(model, NO_STOP), PROMPTS))
    for i in (0, 2, 3):
        result = results[i]
        assert isinstance(result, Completion)
        assert result.token_ids == expected[i].token_ids


def test_closing_cancels_what_is_under_way_and_the_engine_is_done() -> None:
    async def close() -> None:
        engine = start_engine(small_model(), NO_STOP)
        task = asyncio.create_task(engine.generate((40,), sampling(max_new_tokens=90)))
        for _ in range(5):
            await asyncio.sleep(0)
        await engine.close()
        await engine.close()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RuntimeError, match="closed"):
            await engine.generate((40,), sampling())
        with pytest.raises(RuntimeError, match="closed"):
            engine.load_weights({}, version=1)

    asyncio.run(close())


def test_broken_weights_are_an_error_for_every_caller_and_the_engine_recovers() -> None:
    good = small_model()
    broken = {name: torch.full_like(tensor, math.nan) for name, tensor in good.state_dict().items()}

    async def break_and_mend() -> None:
        engine = start_engine(small_model())
        engine.load_weights(broken, version=1)
        results = await asyncio.gather(*(engine.generate(p, sampling()) for p in PROMPTS), return_exceptions=True)
        assert all(isinstance(result, FloatingPointError) for result in results)
        engine.load_weights(good.state_dict(), version=2)
        assert (await engine.generate(PROMPTS[0], sampling())).policy_version == 2

    asyncio.run(break_and_mend())


def test_wrong_settings_and_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"engine\.max_batch_size=0: expected >= 1"):
        HFEngine(max_batch_size=0)
    with pytest.raises(ValueError, match=r"engine\.cache_mib=-1: expected >= 0"):
        HFEngine(cache_mib=-1)
    with pytest.raises(ValueError, match="at least one prompt token"):
        asyncio.run(start_engine(small_model()).generate((), sampling()))
    with pytest.raises(ValueError, match="full attention in every layer, mistral has DynamicSlidingWindowLayer"):
        start_engine(small_model(family="Mistral", sliding_window=4))
