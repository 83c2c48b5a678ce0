import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tiny_models import (
    VOCAB_SIZE,
    assert_scored_as_from_scratch,
    early_stops,
    renderer,
    sampling,
    small_model,
    start_engine,
    token_batch,
    wave,
)
from turnwise.engine.hf import HFRolloutEngine
from turnwise.model.policy import TorchPolicy
from turnwise.types import Completion, FinishReason

PROMPTS = ((20, 30, 40), (50,), (7, 8, 9, 10, 11, 12, 13), (20, 30, 40))
NO_STOP = frozenset({VOCAB_SIZE})


@contextmanager
def forward_shapes(model: Any) -> Iterator[list[tuple[int, ...]]]:
    """Rows and columns of every forward pass."""
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "SmolLM3", "Mistral"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_ragged_waves_and_stored_turns_score_as_a_forward_pass_from_scratch(family: str, kernel: str) -> None:
    overrides: dict[str, Any] = {"sliding_window": None} if family == "Mistral" else {}
    model = small_model(family=family, **overrides)
    model.set_attn_implementation(kernel)
    stop, prompts = early_stops(6)

    async def two_turns() -> None:
        engine = start_engine(model, stop)
        first = await wave(engine, prompts, max_new_tokens=40)
        assert all(c.finish_reason is FinishReason.stop for c in first)
        grown = [(*p, *c.token_ids, *range(100, 101 + i)) for i, (p, c) in enumerate(zip(prompts, first, strict=True))]
        grown.append((200, 201, 202))  # a fresh prompt beside stored turns
        with forward_shapes(model) as shapes:
            second = await wave(engine, grown, first_seed=50)
        # Of row i only its stop token and i + 1 tool tokens are new, of the fresh prompt all three.
        assert shapes[0] == (7, 7)
        for prompt, completion in (*zip(prompts, first, strict=True), *zip(grown, second, strict=True)):
            assert_scored_as_from_scratch(model, prompt, completion)

    asyncio.run(two_turns())


def test_log_probs_are_those_at_the_sampling_temperature() -> None:
    model = small_model()
    for temperature in (0.5, 1.7):
        completions = asyncio.run(wave(start_engine(model), PROMPTS, temperature=temperature))
        for prompt, completion in zip(PROMPTS, completions, strict=True):
            assert_scored_as_from_scratch(model, prompt, completion, temperature)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    model = small_model()
    (completion,) = asyncio.run(wave(start_engine(model, NO_STOP), [PROMPTS[2]], temperature=0.0))
    token_ids = list(PROMPTS[2])
    for token in completion.token_ids:
        assert token == int(model(input_ids=torch.tensor([token_ids])).logits[0, -1].argmax())
        token_ids.append(token)
    assert_scored_as_from_scratch(model, PROMPTS[2], completion)


def test_a_request_gets_the_same_tokens_alone_and_in_a_batch() -> None:
    model = small_model()

    async def alone() -> list[Completion]:
        engine = start_engine(model)
        return [await engine.generate(prompt, sampling(seed=seed)) for seed, prompt in enumerate(PROMPTS)]

    batched, single = asyncio.run(wave(start_engine(model), PROMPTS)), asyncio.run(alone())
    assert [c.token_ids for c in batched] == [c.token_ids for c in single]
    assert batched[0].token_ids != batched[3].token_ids  # one prompt, two seeds


def test_the_same_requests_give_the_same_bits() -> None:
    model = small_model()
    stop, prompts = early_stops(12)
    once, again = (asyncio.run(wave(start_engine(model, stop), prompts, max_new_tokens=40)) for _ in range(2))
    assert once == again


def test_equal_prompts_are_prefilled_once_and_large_prefills_in_parts() -> None:
    model = small_model()
    with forward_shapes(model) as shapes:
        asyncio.run(wave(start_engine(model, NO_STOP), PROMPTS, max_new_tokens=2))
    assert shapes == [(3, 7), (4, 1)]  # three distinct prompts of at most seven tokens, then four rows
    with forward_shapes(model) as shapes:
        completions = asyncio.run(wave(start_engine(model, NO_STOP, prefill_tokens=14), PROMPTS, max_new_tokens=2))
    assert shapes == [(2, 7), (1, 7), (4, 1)]
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert_scored_as_from_scratch(model, prompt, completion)


def test_finished_rows_leave_the_batch() -> None:
    model = small_model()
    budgets = [1, 2, 3, 4, 5, 6, 7, 8]

    async def decode() -> list[Completion]:
        engine = start_engine(model, NO_STOP)
        return await asyncio.gather(*(engine.generate((40 + n,), sampling(seed=n, max_new_tokens=n)) for n in budgets))

    with forward_shapes(model) as shapes:
        completions = asyncio.run(decode())
    # After token n there are 8 - n rows to go on with; the batch shrinks when these are at most 3/4 of it.
    assert [rows for rows, _ in shapes] == [8, 8, 6, 6, 4, 3, 2, 1]
    assert [len(c.token_ids) for c in completions] == budgets
    for n, completion in zip(budgets, completions, strict=True):
        assert completion.finish_reason is FinishReason.length
        assert_scored_as_from_scratch(model, (40 + n,), completion)


def test_the_row_of_a_cancelled_caller_leaves_like_a_finished_one() -> None:
    model = small_model()

    async def cancel_one() -> None:
        engine = start_engine(model, NO_STOP)
        tasks = [asyncio.create_task(engine.generate((40 + i,), sampling(seed=i))) for i in range(2)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert len(tasks[0].result().token_ids) == 6

    with forward_shapes(model) as shapes:
        asyncio.run(cancel_one())
    assert shapes == [(2, 1)] + [(1, 1)] * 5  # prefilled together, decoded alone


def test_callers_of_the_same_moment_share_a_wave() -> None:
    model = small_model()

    async def late(engine: HFRolloutEngine) -> Completion:
        await asyncio.sleep(0)
        return await engine.generate((41,), sampling(max_new_tokens=1))

    async def both() -> None:
        engine = start_engine(model)
        await asyncio.gather(engine.generate((40,), sampling(max_new_tokens=1)), late(engine))

    with forward_shapes(model) as shapes:
        asyncio.run(both())
    assert shapes == [(2, 1)]


def test_a_batch_grows_beyond_its_first_columns() -> None:
    model = small_model(max_position_embeddings=256)
    completions = asyncio.run(wave(start_engine(model, NO_STOP), PROMPTS, max_new_tokens=200))
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert len(completion.token_ids) == 200
        assert_scored_as_from_scratch(model, prompt, completion)


def test_waves_hold_at_most_max_batch_size_requests_in_order_of_arrival() -> None:
    model = small_model()
    prompts = [(token,) for token in range(40, 45)]
    with forward_shapes(model) as shapes:
        completions = asyncio.run(wave(start_engine(model, NO_STOP, max_batch_size=2), prompts, max_new_tokens=1))
    assert shapes == [(2, 1), (2, 1), (1, 1)]
    assert all(len(c.token_ids) == 1 for c in completions)


def test_a_turn_ends_where_the_positions_end_and_aborts_where_none_is_left() -> None:
    model = small_model(max_position_embeddings=8)
    short, exact, too_long = asyncio.run(wave(start_engine(model, NO_STOP), [(5,) * 6, (5,) * 8, (5,) * 9]))
    assert (len(short.token_ids), short.finish_reason) == (2, FinishReason.length)
    assert (exact.token_ids, exact.finish_reason) == ((), FinishReason.abort)
    assert (too_long.token_ids, too_long.finish_reason) == ((), FinishReason.abort)


def test_the_stop_token_ends_a_turn_and_belongs_to_it() -> None:
    model = small_model()
    free = asyncio.run(wave(start_engine(model, NO_STOP), [PROMPTS[0]]))[0]
    third = free.token_ids[2]
    assert third not in free.token_ids[:2]
    (stopped,) = asyncio.run(wave(start_engine(model, frozenset({third})), [PROMPTS[0]]))
    assert stopped.token_ids == free.token_ids[:3]
    assert stopped.finish_reason is FinishReason.stop


def test_without_room_for_stored_turns_the_results_are_the_same() -> None:
    model = small_model()
    stop, prompts = early_stops(3)

    async def two_turns(**settings: int) -> list[tuple[int, ...]]:
        engine = start_engine(model, stop, **settings)
        first = await wave(engine, prompts, max_new_tokens=40)
        grown = [(*p, *c.token_ids, 100) for p, c in zip(prompts, first, strict=True)]
        return [c.token_ids for c in (*first, *await wave(engine, grown, first_seed=50))]

    assert asyncio.run(two_turns()) == asyncio.run(two_turns(cache_mib=0))


def test_recorded_log_probs_are_those_of_the_policy_over_several_turns() -> None:
    stop, prompts = early_stops(5)
    policy = TorchPolicy(
        small_model(),
        renderer(),
        learning_rate=1e-3,
        weight_decay=0.0,
        betas=(0.9, 0.95),
        max_grad_norm=1.0,
        token_budget=64,
        logit_chunk=16,
    )

    async def three_turns() -> list[tuple[list[int], list[int], list[float]]]:
        engine = start_engine(small_model(seed=1), stop)
        engine.load_weights(policy.weights(), version=0)
        rows = [(list(prompt), [0] * len(prompt), [0.0] * len(prompt)) for prompt in prompts]
        for k in range(3):
            completions = await wave(engine, [ids for ids, _, _ in rows], 10 * k, temperature=0.9, max_new_tokens=20)
            for (ids, mask, logprobs), completion in zip(rows, completions, strict=True):
                ids += [*completion.token_ids, 100, 101 + k]
                mask += [1] * len(completion.token_ids) + [0, 0]
                logprobs += [*completion.logprobs, 0.0, 0.0]
        return rows

    rows = asyncio.run(three_turns())
    recorded = torch.tensor([logprob for _, _, logprobs in rows for logprob in logprobs])
    scored = policy.logprobs(token_batch([(ids, mask) for ids, mask, _ in rows], temperature=0.9))
    assert recorded.count_nonzero() > 15
    torch.testing.assert_close(recorded, scored, rtol=0, atol=2e-4)
