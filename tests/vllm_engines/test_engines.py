"""Tokens in, tokens out, log-probs as the trainer has them, weights that arrive: against a real vLLM."""

from typing import Any

import pytest
import torch

from turnwise.engine.vllm.worker import digest
from turnwise.types import FinishReason
from vllm_engines.live import Live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SAMPLINGS = {
    "temperature 1": {},
    "temperature 0.7": {"temperature": 0.7},
    "temperature 0.7, top-k 5": {"temperature": 0.7, "top_k": 5},
    "top-p 0.8": {"top_p": 0.8},
    "temperature 0.9, top-k 20, top-p 0.5": {"temperature": 0.9, "top_k": 20, "top_p": 0.5},
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_logprobs_are_the_trainers(live: Live, assert_agree: Any, name: str) -> None:
    prompts, sampling = live.prompts(8), SAMPLINGS[name]
    turns = live.sample(prompts, **sampling)
    assert all(1 <= len(turn.token_ids) <= 16 for turn in turns)
    assert_agree(live.gap(prompts, turns, **sampling), name)


def test_a_turn_repeats_and_the_seed_matters(live: Live) -> None:
    prompt = live.prompts(1)
    first, again, other = (live.sample(prompt, seed=seed, max_new_tokens=24)[0] for seed in (3, 3, 4))
    assert first.token_ids == again.token_ids
    assert first.token_ids != other.token_ids


def test_a_stop_token_ends_the_turn_and_belongs_to_it(live: Live) -> None:
    (free,) = live.sample(live.prompts(1), max_new_tokens=6, seed=1)
    own = live.engine._stop_token_ids
    live.engine._stop_token_ids = [free.token_ids[2]]
    try:
        (stopped,) = live.sample(live.prompts(1), max_new_tokens=6, seed=1)
    finally:
        live.engine._stop_token_ids = own
    end = free.token_ids.index(free.token_ids[2])
    assert stopped.token_ids == free.token_ids[: end + 1]
    assert (stopped.finish_reason, free.finish_reason) == (FinishReason.stop, FinishReason.length)


def test_the_context_ends_the_turn(live: Live) -> None:
    room = live.engine._max_positions
    (last,) = live.sample([(5,) * (room - 1)], max_new_tokens=9)
    (none,) = live.sample([(5,) * room], max_new_tokens=9)
    assert (len(last.token_ids), none.token_ids, none.finish_reason) == (1, (), FinishReason.abort)


def test_more_prompts_than_go_through_the_model_at_once(live: Live, assert_agree: Any) -> None:
    prompts = [(5 + number,) * 200 for number in range(16)]  # 3200 tokens that share nothing
    turns = live.sample(prompts, max_new_tokens=4)
    assert_agree(live.gap(prompts, turns), "3200 tokens of prompts")


def test_new_weights_arrive_with_their_version(live: Live, assert_agree: Any) -> None:
    prompts = live.prompts(4)
    stale = live.sample(prompts)
    live.load(live.move(seed=1), version=5)
    assert live.gap(prompts, stale) > 1e-3  # the weights did move
    turns = live.sample(prompts)
    assert {turn.policy_version for turn in turns} == {5}
    assert_agree(live.gap(prompts, turns), "after new weights")


def test_a_worker_that_ignores_the_weights_is_found_out(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    digests: list[Any] = []

    async def pretend(method: str, argument: str) -> list[Any]:
        from safetensors.torch import load_file

        digests.append({name: digest(tensor) for name, tensor in load_file(argument).items()})
        return digests

    with monkeypatch.context() as patch:
        patch.setattr(live.engine._members[0].backend, "call_workers", pretend)
        with pytest.raises(RuntimeError, match="log-probs of the probe are off by"):
            live.load(live.move(seed=2), version=6)
    live.load(dict(live.policy.weights()), version=7)


def test_a_prefix_cache_of_the_old_weights_is_found_out(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pretend() -> bool:
        return True

    with monkeypatch.context() as patch:
        patch.setattr(live.engine._members[0].backend, "forget_prefixes", pretend)
        with pytest.raises(RuntimeError, match="log-probs of the probe are off by"):
            live.load(live.move(seed=3), version=8)
    live.load(dict(live.policy.weights()), version=9)


def test_a_step_as_small_as_training_takes_moves_the_probe(live: Live, assert_agree: Any) -> None:
    weights = dict(live.policy.weights())
    live.load(weights, version=10)
    for tensor in {tensor.data_ptr(): tensor for tensor in weights.values()}.values():
        tensor.add_(1e-6 * torch.sign(tensor))  # AdamW's first step at a learning rate of 1e-6
    live.load(weights, version=11)
    prompts = live.prompts(2)
    assert_agree(live.gap(prompts, live.sample(prompts)), "after a step of 1e-6")
