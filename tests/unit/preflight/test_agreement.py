"""Log-probs of engine and trainer: those of a real engine agree, and what is left out on one side is named."""

import asyncio
from dataclasses import replace

import pytest
import torch

from tiny_models import VOCAB_SIZE, small_model, small_policy, start_engine, turns
from turnwise.preflight.agreement import Bounds, check_agreement
from turnwise.preflight.finding import Finding, Verdict
from turnwise.preflight.handover import Asked, continued
from turnwise.types import TokenBatch

PROMPTS = ((20, 30, 40), (50, 60), (7, 8, 9, 10))


def sampled(temperature: float = 0.7, top_k: int = 0, top_p: float = 1.0) -> TokenBatch:
    """What a real engine samples, with its own log-probs."""

    async def run() -> TokenBatch:
        engine = start_engine(small_model(), frozenset({VOCAB_SIZE}))
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_new_tokens": 20}
        found = await turns(engine, PROMPTS, **settings)
        await engine.close()
        asked = Asked(transcripts=PROMPTS, temperature=temperature, top_k=top_k, top_p=top_p)
        return continued(list(zip(PROMPTS, found, strict=True)), asked)

    return asyncio.run(run())


def found(batch: TokenBatch) -> Finding:
    finding = Finding("agreement")
    bounds = Bounds.of(torch.float32, is_truncated=batch.top_p < 1 or batch.top_k > 0)
    check_agreement(small_policy(), batch, bounds, finding)
    return finding


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.6), (20, 0.8)])
def test_a_real_engine_agrees(top_k: int, top_p: float):
    finding = found(sampled(top_k=top_k, top_p=top_p))
    assert finding.verdict is Verdict.passed, finding.lines
    assert any("they are replayed" in line for line in finding.lines) == (top_k > 0 or top_p < 1)


def test_truncation_that_the_trainer_does_not_replay():
    finding = found(replace(sampled(top_p=0.5), top_p=1.0))
    assert finding.verdict is Verdict.failed
    assert "the engine's log-probs are not the trainer's" in finding.lines[-1]


def test_log_probs_from_before_truncation_are_named():
    batch = sampled(top_p=0.5)
    plain = small_policy().logprobs(replace(batch, top_p=1.0))
    finding = found(replace(batch, behaviour_logprobs=plain))
    assert finding.verdict is Verdict.failed
    assert finding.lines[-1].endswith("they are those without top_k and top_p")


def test_log_probs_from_before_the_temperature_are_named():
    batch = sampled()
    plain = small_policy().logprobs(replace(batch, temperature=1.0))
    finding = found(replace(batch, behaviour_logprobs=plain))
    assert finding.verdict is Verdict.failed
    assert finding.lines[-1].endswith("they are those without the temperature")


def test_one_token_that_is_off_is_a_defect_in_float32():
    batch = sampled()
    logprobs = batch.behaviour_logprobs.clone()
    logprobs[batch.loss_mask.nonzero()[0]] -= 0.01
    assert found(replace(batch, behaviour_logprobs=logprobs)).verdict is Verdict.failed


def test_rounding_of_half_precision_is_none():
    bounds = Bounds.of(torch.bfloat16, is_truncated=False)
    assert bounds.hold(torch.full((100,), 0.04))
    assert bounds.hold(torch.cat([torch.full((98,), 0.01), torch.full((2,), 0.9)]))
    assert not bounds.hold(torch.full((100,), 0.2)), "too far in the mean"
    assert not bounds.hold(torch.cat([torch.full((95,), 0.0), torch.full((5,), 0.6)])), "too many far ones"
