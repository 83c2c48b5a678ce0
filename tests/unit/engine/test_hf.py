"""The engine as its callers see it: turns, weights, failures, and what a session promises."""

import asyncio
from typing import Any, cast

import pytest
import torch

from tiny_models import (
    VOCAB_SIZE,
    assert_scored_as_from_scratch,
    early_stops,
    recorded_passes,
    renderer,
    sampling,
    small_model,
    start_engine,
    token_batch,
    trajectories,
    turns,
)
from turnwise.engine.hf import HFEngine
from turnwise.model.policy import TorchPolicy
from turnwise.protocols import EngineSession
from turnwise.types import Completion, FinishReason

PROMPTS = ((20, 30, 40), (50,), (7, 8, 9, 10, 11, 12, 13), (20, 30, 40))
NO_STOP = frozenset({VOCAB_SIZE})


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "SmolLM3", "Mistral"])
def test_turns_score_as_a_forward_pass_from_scratch(family: str) -> None:
    overrides: dict[str, Any] = {"sliding_window": None} if family == "Mistral" else {}
    model = small_model(family=family, **overrides)
    stop, prompts = early_stops(6)

    reply = (100, 101, 102)
    pairs = asyncio.run(trajectories(start_engine(model, stop), prompts, [reply]))
    for prompt, (first, second) in zip(prompts, pairs, strict=True):
        assert_scored_as_from_scratch(model, prompt, first)
        assert_scored_as_from_scratch(model, (*prompt, *first.token_ids, *reply), second)


def test_equal_prompts_are_prefilled_once_and_later_turns_only_append() -> None:
    model = small_model()

    engine = start_engine(model, frozenset(range(VOCAB_SIZE)), tool_ticks=1)  # every turn has one token
    with recorded_passes() as passes:
        asyncio.run(trajectories(engine, PROMPTS, [(100,), (100, 101)]))
    # Prompts of 3, 1 and 7 tokens, the fourth being the first again; then each one's last token and what follows it.
    assert passes == [(11, 4), (8, 4), (12, 4)]


def test_log_probs_are_those_at_the_sampling_temperature() -> None:
    model = small_model()
    for temperature in (0.5, 1.7):
        completions = asyncio.run(turns(start_engine(model), PROMPTS, temperature=temperature))
        for prompt, completion in zip(PROMPTS, completions, strict=True):
            assert_scored_as_from_scratch(model, prompt, completion, temperature)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    model = small_model()
    (completion,) = asyncio.run(turns(start_engine(model, NO_STOP), [PROMPTS[2]], temperature=0.0))
    token_ids = list(PROMPTS[2])
    for token in completion.token_ids:
        assert token == int(model(input_ids=torch.tensor([token_ids])).logits[0, -1].argmax())
        token_ids.append(token)
    assert_scored_as_from_scratch(model, PROMPTS[2], completion)


def test_top_k_of_one_is_greedy_and_certain() -> None:
    model = small_model()
    (greedy,) = asyncio.run(turns(start_engine(model, NO_STOP), [PROMPTS[2]], temperature=0.0))
    (only,) = asyncio.run(turns(start_engine(model, NO_STOP), [PROMPTS[2]], top_k=1))
    assert only.token_ids == greedy.token_ids
    assert only.logprobs == (0.0,) * 6


def test_a_request_gets_the_same_tokens_alone_and_in_a_batch() -> None:
    model = small_model()

    async def alone() -> list[Completion]:
        engine = start_engine(model)
        completions = []
        for seed, prompt in enumerate(PROMPTS):
            session = engine.session()
            completions.append(await session.generate(prompt, sampling(seed)))
            session.close()
        return completions

    batched, single = asyncio.run(turns(start_engine(model), PROMPTS)), asyncio.run(alone())
    assert [c.token_ids for c in batched] == [c.token_ids for c in single]
    assert batched[0].token_ids != batched[3].token_ids  # one prompt, two seeds


def test_finished_turns_leave_the_batch_at_once() -> None:
    model = small_model()
    budgets = [1, 2, 3, 4, 5, 6, 7, 8]

    async def one(number: int, session: EngineSession) -> Completion:
        completion = await session.generate((40 + number,), sampling(number, max_new_tokens=number))
        session.close()
        return completion

    async def decode() -> list[Completion]:
        engine = start_engine(model, NO_STOP)
        sessions = [engine.session() for _ in budgets]
        with recorded_passes() as passes:
            completions = await asyncio.gather(*(one(n, s) for n, s in zip(budgets, sessions, strict=True)))
        assert passes == [(rows, rows) for rows in range(8, 0, -1)]
        return completions

    completions = asyncio.run(decode())
    assert [len(c.token_ids) for c in completions] == budgets
    for n, completion in zip(budgets, completions, strict=True):
        assert completion.finish_reason is FinishReason.length
        assert_scored_as_from_scratch(model, (40 + n,), completion)


def test_trajectories_beyond_the_slots_wait_for_one_in_order() -> None:
    model = small_model()
    prompts = [(token,) for token in range(40, 45)]

    engine = start_engine(model, NO_STOP, max_batch_size=2, tool_ticks=1)
    with recorded_passes() as passes:
        completions = asyncio.run(turns(engine, prompts, max_new_tokens=2))
    assert passes == [(2, 2)] * 4 + [(1, 1)] * 2
    for prompt, completion in zip(prompts, completions, strict=True):
        assert_scored_as_from_scratch(model, prompt, completion)


def test_a_turn_ends_where_the_positions_end_and_aborts_where_none_is_left() -> None:
    model = small_model(max_position_embeddings=8)
    short, exact, too_long = asyncio.run(turns(start_engine(model, NO_STOP), [(5,) * 6, (5,) * 8, (5,) * 9]))
    assert (len(short.token_ids), short.finish_reason) == (2, FinishReason.length)
    assert (exact.token_ids, exact.finish_reason) == ((), FinishReason.abort)
    assert (too_long.token_ids, too_long.finish_reason) == ((), FinishReason.abort)


def test_the_stop_token_ends_a_turn_and_belongs_to_it() -> None:
    model = small_model()
    free = asyncio.run(turns(start_engine(model, NO_STOP), [PROMPTS[0]]))[0]
    third = free.token_ids[2]
    assert third not in free.token_ids[:2]
    (stopped,) = asyncio.run(turns(start_engine(model, frozenset({third})), [PROMPTS[0]]))
    assert stopped.token_ids == free.token_ids[:3]
    assert stopped.finish_reason is FinishReason.stop


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

    engine = start_engine(small_model(seed=1), stop)
    asyncio.run(engine.load_weights(policy.weights(), version=0))
    replies = [(100, 101), (100, 102)]
    sampled = asyncio.run(trajectories(engine, prompts, replies, temperature=0.9))
    sequences: list[tuple[list[int], list[int]]] = []
    recorded: list[float] = []
    for prompt, completions in zip(prompts, sampled, strict=True):
        ids, mask = list(prompt), [0] * len(prompt)
        recorded += [0.0] * len(prompt)
        for completion, reply in zip(completions, (*replies, ()), strict=True):
            ids += [*completion.token_ids, *reply]
            mask += [1] * len(completion.token_ids) + [0] * len(reply)
            recorded += [*completion.logprobs, *(0.0,) * len(reply)]
        sequences.append((ids, mask))
    scored = policy.logprobs(token_batch(sequences, temperature=0.9))
    assert sum(logprob < 0 for logprob in recorded) > 15
    torch.testing.assert_close(torch.tensor(recorded), scored, rtol=0, atol=2e-4)


def test_a_session_continues_its_own_tokens_one_turn_at_a_time() -> None:
    async def misuse() -> None:
        engine = start_engine(small_model(), NO_STOP)
        session = engine.session()
        first = await session.generate((5, 6), sampling(max_new_tokens=2))
        with pytest.raises(ValueError, match="do not begin with the 4 that the session knows"):
            await session.generate((5, 6, *first.token_ids[:1], 0, 100), sampling())
        with pytest.raises(ValueError, match="do not begin with the 4"):
            await session.generate((5, 6), sampling())
        task = asyncio.create_task(session.generate((5, 6, *first.token_ids, 100), sampling()))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="a session that is at its turn"):
            await session.generate((5, 6), sampling())
        await task
        session.close()
        session.close()
        with pytest.raises(RuntimeError, match="a session that is closed"):
            await session.generate((5, 6), sampling())

    asyncio.run(misuse())


def test_wrong_settings_and_requests_are_refused() -> None:
    for name in ("max_batch_size", "prefill_tokens", "cache_mib", "tool_ticks"):
        with pytest.raises(ValueError, match=rf"engine\.{name}=0: expected >= 1"):
            HFEngine(**cast(Any, {name: 0}))
    with pytest.raises(ValueError, match="at least one prompt token"):
        asyncio.run(turns(start_engine(small_model()), [()]))
    # 2 layers x 2 x 2 heads x 8 numbers x 4 bytes = 256 bytes a token: 5000 tokens are 1.2 MiB.
    long = small_model(max_position_embeddings=10_000)
    with pytest.raises(ValueError, match=r"engine\.cache_mib=1: expected >= 2, .* of one trajectory of 5000 tokens"):
        asyncio.run(turns(start_engine(long, cache_mib=1), [(5,)], max_new_tokens=4999))
