"""The engine around a vLLM of our own: a model of transformers that loads what the real worker's class reads."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
from torch import Tensor

from small_vllm import SmallVLLM
from tiny_models import sampling, small_model
from turnwise.engine.vllm.backend import Gone, NoVLLMLeft
from turnwise.engine.vllm.rollout import VLLMRolloutEngine
from turnwise.types import FinishReason


def run(
    work: Callable[[VLLMRolloutEngine, SmallVLLM], Coroutine[Any, Any, None]], stop: int = 1, sleeps: bool = False
) -> None:
    vllm = SmallVLLM()
    engine = VLLMRolloutEngine(
        [vllm],
        small_model(seed=0),
        frozenset({stop}),
        max_positions=96,
        dtype=torch.float32,
        padded_head_size=8,
        sleeps=sleeps,
    )
    asyncio.run(work(engine, vllm))


def changed_weights(seed: int = 1) -> dict[str, Tensor]:
    return small_model(seed=seed).state_dict()


def test_first_turn_comes_from_the_model_that_the_engine_was_started_with() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        turns = await asyncio.gather(*(engine.session().generate((5, 6), sampling()) for _ in range(3)))
        torch.testing.assert_close(vllm.model.state_dict(), small_model(seed=0).state_dict())
        assert {turn.policy_version for turn in turns} == {0}
        assert len(vllm.asked) == 4  # one probe, three turns: the weights are handed over once

    run(work)


def test_weights_bring_their_version_and_the_first_ones_are_never_sent() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 7)
        turn = await engine.session().generate((5, 6), sampling())
        torch.testing.assert_close(vllm.model.state_dict(), changed_weights())
        assert turn.policy_version == 7
        assert len(vllm.asked) == 2

    run(work)


def test_turn_ends_with_its_stop_token() -> None:
    async def free(engine: VLLMRolloutEngine, _: SmallVLLM) -> None:
        turn = await engine.session().generate((5, 6), sampling(max_new_tokens=4))
        assert (len(turn.token_ids), turn.finish_reason) == (4, FinishReason.length)
        stops.append(turn.token_ids[1])

    async def stopped(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        turn = await engine.session().generate((5, 6), sampling(max_new_tokens=4))
        first = turn.token_ids.index(stops[0])
        assert (first, turn.finish_reason) == (len(turn.token_ids) - 1, FinishReason.stop)
        asked = vllm.asked[-1]
        assert (asked["stop_token_ids"], asked["ignore_eos"], asked["detokenize"]) == (stops, True, False)

    stops: list[int] = []
    run(free)
    run(stopped, stop=stops[0])


def test_turn_is_cut_at_the_context_and_aborted_beyond_it() -> None:
    async def work(engine: VLLMRolloutEngine, _: SmallVLLM) -> None:
        short = await engine.session().generate((5,) * 94, sampling(max_new_tokens=9))
        none = await engine.session().generate((5,) * 96, sampling(max_new_tokens=9))
        assert len(short.token_ids) <= 2  # 96 - 94
        assert (none.token_ids, none.finish_reason) == ((), FinishReason.abort)
        with pytest.raises(ValueError, match="at least one prompt token"):
            await engine.session().generate((), sampling())

    run(work)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("is_deaf", "worker 0 misses 20 of 20 tensors"),
        ("is_stale", "its log-probs of the probe are off by"),
        ("ignores_temperature", "its log-probs of the probe are off by"),
        ("keeps_prefixes", "did not empty its prefix cache"),
        ("is_broken", "its log-probs of the probe are off by nan"),
    ],
)
def test_a_hand_over_that_fails_is_found_out_before_sampling(fault: str, message: str) -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        setattr(vllm, fault, True)
        with pytest.raises(RuntimeError, match=message):
            await engine.load_weights(changed_weights(seed=2), 2)
        with pytest.raises(RuntimeError, match="after a hand-over of weights that failed"):
            await engine.session().generate((5, 6), sampling())

    run(work)


def test_a_step_too_small_for_the_bound_must_still_move_the_probe() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        vllm.is_stale = True
        await engine.load_weights(changed_weights(), 2)  # the same weights: the same answer is right
        moved = {name: tensor * (1 + 1e-6) for name, tensor in changed_weights().items()}
        with pytest.raises(RuntimeError, match="tensors changed, and its answer to the probe did not"):
            await engine.load_weights(moved, 3)

    run(work)


def test_turns_of_foreign_weights_are_refused() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        vllm.label = "another/1"
        with pytest.raises(RuntimeError, match="sampled with the weights 'another/1'"):
            await engine.session().generate((5, 6), sampling())

    run(work)


def test_logits_that_are_not_finite_are_an_error() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        vllm.is_broken = True
        with pytest.raises(FloatingPointError, match="not finite after 2 tokens"):
            await engine.session().generate((5, 6), sampling())

    run(work)


def test_weights_wait_for_no_turn() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        vllm.gate = asyncio.Event()
        turn = asyncio.create_task(engine.session().generate((5, 6), sampling()))
        await asyncio.sleep(0.05)
        with pytest.raises(RuntimeError, match="while turns are being sampled"):
            await engine.load_weights(changed_weights(), 2)
        during = engine.busy_s
        assert during >= 0.04
        vllm.gate.set()
        await turn
        after = engine.busy_s
        await asyncio.sleep(0.05)
        assert engine.busy_s == after >= during

    run(work)


def test_a_rest_is_slept_through_and_the_next_weights_wake_it_part_by_part() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        first = await engine.session().generate((5, 6), sampling())
        awake = ["receive_weights", "forget_prefixes", "generate", "generate"]  # the probe, and the turn
        assert vllm.events == awake
        await engine.rest()
        await engine.rest()
        assert vllm.events == [*awake, "sleep"]
        with pytest.raises(RuntimeError, match="while vLLM sleeps: load_weights wakes it"):
            await engine.session().generate((5, 6), sampling())
        await engine.load_weights(changed_weights(), 2)
        woken = ["sleep", "wake weights", "receive_weights", "wake kv_cache", "forget_prefixes", "generate"]
        assert vllm.events == [*awake, *woken]
        again = await engine.session().generate((5, 6), sampling())
        assert (again.token_ids, again.logprobs) == (first.token_ids, first.logprobs)
        await engine.load_weights(changed_weights(), 3)  # of one that is awake: an evaluation stands between
        assert vllm.events[-3:] == ["receive_weights", "forget_prefixes", "generate"]

    run(work, sleeps=True)


def test_without_the_option_a_rest_changes_nothing() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        told = list(vllm.events)
        await engine.rest()
        await engine.session().generate((5, 6), sampling())
        assert vllm.events == [*told, "generate"]

    run(work)


def test_a_rest_before_the_first_turn_leaves_no_weights_to_begin_with() -> None:
    async def work(engine: VLLMRolloutEngine, _: SmallVLLM) -> None:
        await engine.rest()
        with pytest.raises(RuntimeError, match="while vLLM sleeps"):
            await engine.session().generate((5, 6), sampling())

    run(work, sleeps=True)


def test_one_that_died_before_its_rest_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dead() -> None:
        raise Gone("it cannot be reached")

    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        monkeypatch.setattr(vllm, "sleep", dead)
        await engine.rest()  # an update of what was sampled follows
        await engine.rest()
        for call in (engine.session().generate((5, 6), sampling()), engine.load_weights(changed_weights(), 2)):
            with pytest.raises(NoVLLMLeft, match=r"no vLLM is left to sample with: vLLM: it cannot be reached$"):
                await call

    run(work, sleeps=True)


def test_one_that_does_not_wake_up_is_not_asked() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        await engine.rest()
        vllm.asleep = {"kv_cache"}
        vllm.stays_asleep = True
        with pytest.raises(RuntimeError, match="vLLM did not wake up"):
            await engine.load_weights(changed_weights(), 2)

    run(work, sleeps=True)


def test_no_rest_while_turns_are_sampled() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        await engine.load_weights(changed_weights(), 1)
        vllm.gate = asyncio.Event()
        turn = asyncio.create_task(engine.session().generate((5, 6), sampling()))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="rest was called while turns are being sampled"):
            await engine.rest()
        vllm.gate.set()
        await turn
        assert "sleep" not in vllm.events

    run(work, sleeps=True)


def test_closed_engine_says_so() -> None:
    async def work(engine: VLLMRolloutEngine, vllm: SmallVLLM) -> None:
        session = engine.session()
        session.close()
        session.close()
        await engine.close()
        await engine.close()
        for call in (session.generate((5,), sampling()), engine.load_weights(changed_weights(), 1)):
            with pytest.raises(RuntimeError, match="closed engine"):
                await call

    run(work)
