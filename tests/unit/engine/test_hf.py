import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tiny_models import VOCAB_SIZE, reference_logprobs, renderer, small_model, token_batch
from turnwise.engine.hf import HFEngine, HFRolloutEngine
from turnwise.model.policy import TorchPolicy
from turnwise.types import Completion, FinishReason, Sampling

STOP = 1
PROMPTS = ((20, 30, 40), (50,), (7, 8, 9, 10, 11, 12, 13), (20, 30, 40))
NO_STOP = frozenset({VOCAB_SIZE})


def start(model: Any, stop: frozenset[int] = frozenset({STOP}), **settings: int) -> HFRolloutEngine:
    return HFEngine(**settings).start(model, stop, 0)


def sampling(seed: int = 0, temperature: float = 1.0, max_new_tokens: int = 6) -> Sampling:
    return Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)


async def wave(
    engine: HFRolloutEngine, prompts: Sequence[Sequence[int]], first_seed: int = 0, **settings: Any
) -> list[Completion]:
    calls = (engine.generate(p, sampling(seed=first_seed + i, **settings)) for i, p in enumerate(prompts))
    return await asyncio.gather(*calls)


@contextmanager
def forward_shapes(model: Any) -> Iterator[list[tuple[int, ...]]]:
    """Rows and columns of every forward pass."""
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


def assert_scored_as_from_scratch(
    model: Any, prompt: Sequence[int], completion: Completion, temperature: float = 1.0
) -> None:
    expected = reference_logprobs(model, (*prompt, *completion.token_ids), temperature)[len(prompt) :]
    torch.testing.assert_close(torch.tensor(completion.logprobs).double(), expected, rtol=0, atol=1e-4)


def to_be_continued(model: Any, num_rows: int) -> tuple[frozenset[int], list[tuple[int, ...]]]:
    """Stop tokens and prompts with which every first turn ends early, most after different numbers of tokens."""
    return frozenset(range(0, VOCAB_SIZE, 8)), [tuple(range(20, 22 + 3 * row)) for row in range(num_rows)]


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "SmolLM3", "Mistral"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_ragged_waves_and_stored_turns_score_as_a_forward_pass_from_scratch(family: str, kernel: str) -> None:
    overrides = {"sliding_window": None} if family == "Mistral" else {}
    model = small_model(family=family, **overrides)
    model.set_attn_implementation(kernel)
    stop, prompts = to_be_continued(model, num_rows=6)

    async def two_turns() -> None:
        engine = start(model, stop)
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
        completions = asyncio.run(wave(start(model), PROMPTS, temperature=temperature))
        for prompt, completion in zip(PROMPTS, completions, strict=True):
            assert_scored_as_from_scratch(model, prompt, completion, temperature)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    model = small_model()
    (completion,) = asyncio.run(wave(start(model, NO_STOP), [PROMPTS[2]], temperature=0.0))
    token_ids = list(PROMPTS[2])
    for token in completion.token_ids:
        assert token == int(model(input_ids=torch.tensor([token_ids])).logits[0, -1].argmax())
        token_ids.append(token)
    assert_scored_as_from_scratch(model, PROMPTS[2], completion)


def test_a_request_gets_the_same_tokens_alone_and_in_a_batch() -> None:
    model = small_model()

    async def alone() -> list[Completion]:
        engine = start(model)
        return [await engine.generate(prompt, sampling(seed=seed)) for seed, prompt in enumerate(PROMPTS)]

    batched, single = asyncio.run(wave(start(model), PROMPTS)), asyncio.run(alone())
    assert [c.token_ids for c in batched] == [c.token_ids for c in single]
    assert batched[0].token_ids != batched[3].token_ids  # one prompt, two seeds


def test_the_same_requests_give_the_same_bits() -> None:
    model = small_model()
    stop, prompts = to_be_continued(model, num_rows=12)
    assert asyncio.run(wave(start(model, stop), prompts)) == asyncio.run(wave(start(model, stop), prompts))


def test_equal_prompts_are_prefilled_once_and_large_prefills_in_parts() -> None:
    model = small_model()
    with forward_shapes(model) as shapes:
        asyncio.run(wave(start(model, NO_STOP), PROMPTS, max_new_tokens=2))
    assert shapes == [(3, 7), (4, 1)]  # three distinct prompts of at most seven tokens, then four rows
    with forward_shapes(model) as shapes:
        completions = asyncio.run(wave(start(model, NO_STOP, prefill_tokens=14), PROMPTS, max_new_tokens=2))
    assert shapes == [(2, 7), (1, 7), (4, 1)]
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert_scored_as_from_scratch(model, prompt, completion)


def test_finished_rows_leave_the_batch() -> None:
    model = small_model()
    budgets = [1, 2, 3, 4, 5, 6, 7, 8]

    async def decode() -> list[Completion]:
        engine = start(model, NO_STOP)
        return await asyncio.gather(*(engine.generate((40 + n,), sampling(seed=n, max_new_tokens=n)) for n in budgets))

    with forward_shapes(model) as shapes:
        completions = asyncio.run(decode())
    # After token n there are 8 - n rows to go on with; the batch shrinks when these are at most 3/4 of it.
    assert [rows for rows, _ in shapes] == [8, 8, 6, 6, 4, 3, 2, 1]
    assert [len(c.token_ids) for c in completions] == budgets
    for n, completion in zip(budgets, completions, strict=True):
        assert completion.finish_reason is FinishReason.length
        assert_scored_as_from_scratch(model, (40 + n,), completion)


def test_a_batch_grows_beyond_its_first_columns() -> None:
    model = small_model(max_position_embeddings=256)
    completions = asyncio.run(wave(start(model, NO_STOP), PROMPTS, max_new_tokens=200))
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert len(completion.token_ids) == 200
        assert_scored_as_from_scratch(model, prompt, completion)


def test_waves_hold_at_most_max_batch_size_requests_in_order_of_arrival() -> None:
    model = small_model()
    prompts = [(token,) for token in range(40, 45)]
    with forward_shapes(model) as shapes:
        completions = asyncio.run(wave(start(model, NO_STOP, max_batch_size=2), prompts, max_new_tokens=1))
    assert shapes == [(2, 1), (2, 1), (1, 1)]
    assert all(len(c.token_ids) == 1 for c in completions)


def test_a_turn_ends_where_the_positions_end_and_aborts_where_none_is_left() -> None:
    model = small_model(max_position_embeddings=8)
    short, exact, too_long = asyncio.run(wave(start(model, NO_STOP), [(5,) * 6, (5,) * 8, (5,) * 9]))
    assert (len(short.token_ids), short.finish_reason) == (2, FinishReason.length)
    assert (exact.token_ids, exact.finish_reason) == ((), FinishReason.abort)
    assert (too_long.token_ids, too_long.finish_reason) == ((), FinishReason.abort)


def test_the_stop_token_ends_a_turn_and_belongs_to_it() -> None:
    model = small_model()
    free = asyncio.run(wave(start(model, NO_STOP), [PROMPTS[0]]))[0]
    third = free.token_ids[2]
    assert third not in free.token_ids[:2]
    (stopped,) = asyncio.run(wave(start(model, frozenset({third})), [PROMPTS[0]]))
    assert stopped.token_ids == free.token_ids[:3]
    assert stopped.finish_reason is FinishReason.stop


def test_loading_weights_moves_them_and_the_version_and_forgets_stored_turns() -> None:
    old, new = small_model(seed=0), small_model(seed=1)
    stop, prompts = to_be_continued(old, num_rows=1)

    async def turns() -> None:
        engine = start(small_model(seed=0), stop)
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
    engine = start(small_model(seed=0))
    engine.load_weights(trained.state_dict(), version=1)
    before = asyncio.run(wave(engine, PROMPTS))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.zero_()
    assert asyncio.run(wave(engine, PROMPTS)) == before


def test_weights_must_have_the_models_names_and_shapes_but_tied_ones_need_one_name() -> None:
    engine, weights = start(small_model()), small_model(seed=1).state_dict()
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
        engine = start(small_model())
        task = asyncio.create_task(engine.generate((40,), sampling()))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="while turns are being sampled"):
            engine.load_weights(small_model().state_dict(), version=1)
        await task

    asyncio.run(interfere())


def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    model = small_model()

    async def cancel_one() -> list[Completion | BaseException]:
        engine = start(model, NO_STOP)
        tasks = [asyncio.create_task(engine.generate(p, sampling(seed=i))) for i, p in enumerate(PROMPTS)]
        for _ in range(4):
            await asyncio.sleep(0)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(cancel_one())
    assert isinstance(results[1], asyncio.CancelledError)
    expected = asyncio.run(wave(start(model, NO_STOP), PROMPTS))
    for i in (0, 2, 3):
        result = results[i]
        assert isinstance(result, Completion)
        assert result.token_ids == expected[i].token_ids


def test_closing_cancels_what_is_under_way_and_the_engine_is_done() -> None:
    async def close() -> None:
        engine = start(small_model(), NO_STOP)
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
        engine = start(small_model())
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
        asyncio.run(start(small_model()).generate((), sampling()))
    with pytest.raises(ValueError, match="full attention in every layer, mistral has DynamicSlidingWindowLayer"):
        start(small_model(family="Mistral", sliding_window=4))


def test_without_room_for_stored_turns_the_results_are_the_same() -> None:
    model = small_model()
    stop, prompts = to_be_continued(model, num_rows=3)

    async def two_turns(**settings: int) -> list[tuple[int, ...]]:
        engine = start(model, stop, **settings)
        first = await wave(engine, prompts, max_new_tokens=40)
        grown = [(*p, *c.token_ids, 100) for p, c in zip(prompts, first, strict=True)]
        return [c.token_ids for c in (*first, *await wave(engine, grown, first_seed=50))]

    assert asyncio.run(two_turns()) == asyncio.run(two_turns(cache_mib=0))


def test_recorded_log_probs_are_those_of_the_policy_over_several_turns() -> None:
    stop, prompts = to_be_continued(small_model(), num_rows=5)
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
        engine = start(small_model(seed=1), stop)
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
