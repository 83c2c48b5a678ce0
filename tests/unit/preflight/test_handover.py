"""A change of the weights: a real engine passes, and engines and policies that keep it from being seen are found."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import VOCAB_SIZE, PolicyGradientLoss, small_model, small_policy, start_engine, token_batch
from turnwise.model.policy import TorchPolicy
from turnwise.preflight.agreement import Bounds
from turnwise.preflight.finding import Finding, Verdict
from turnwise.preflight.handover import Asked, check_handover
from turnwise.protocols import Policy, RolloutEngine, Update
from turnwise.types import TokenBatch
from wrong_engines import DeafEngine, ForgetfulEngine, StaleKeysEngine, StubbornEngine

BATCH = token_batch([((20, 21, 22, 23, 24), (0, 0, 1, 1, 1)), ((30, 31, 32, 33), (0, 1, 1, 1))], temperature=0.8)
ASKED = Asked(transcripts=((20, 21, 22, 40, 50, 60), (30, 31, 70, 80)), temperature=0.8)
NO_STOP = frozenset({VOCAB_SIZE})


class Frozen:
    """A policy whose updates change nothing."""

    def __init__(self, policy: TorchPolicy) -> None:
        self._policy = policy

    def update(self, batch: TokenBatch, loss: Any) -> Update:
        return Update(metrics={}, logprobs_N=self._policy.logprobs(batch))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)


class Unmerged:
    """A policy that hands over the weights without what its adapter has learnt."""

    def __init__(self, policy: TorchPolicy) -> None:
        self._policy = policy
        self._first = {name: tensor.clone() for name, tensor in policy.weights().items()}

    def weights(self) -> Mapping[str, Tensor]:
        return self._first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)


def found(policy: Policy, engine: RolloutEngine, asked: Asked = ASKED) -> Finding:
    finding = Finding("handover")
    bounds = Bounds.of(torch.float32, is_truncated=False)

    async def check() -> None:
        try:
            await check_handover(
                policy, engine, BATCH, loss=PolicyGradientLoss(), asked=asked, bounds=bounds, finding=finding
            )
        finally:
            await engine.close()

    asyncio.run(check())
    return finding


def engine() -> RolloutEngine:
    return start_engine(small_model(), NO_STOP, max_batch_size=4)


def test_a_real_engine_passes_and_the_policy_is_as_it_was():
    policy = small_policy()
    before = {name: tensor.clone() for name, tensor in policy.weights().items()}
    finding = found(policy, engine())
    assert finding.verdict is Verdict.passed, finding.lines
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.weights().items())
    assert policy.state_dict()["state"] == {}
    assert policy.state_dict()["param_groups"][0]["lr"] == 1e-2


def test_an_adapter_alone_moves_the_engine_and_is_put_back():
    pytest.importorskip("peft")
    policy = small_policy(lora_rank=4)
    before = {name: tensor.clone() for name, tensor in policy.state_dict()["adapter"].items()}
    finding = found(policy, engine())
    assert finding.verdict is Verdict.passed, finding.lines
    after = policy.state_dict()["adapter"]
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_an_adapter_that_is_not_merged():
    pytest.importorskip("peft")
    finding = found(Unmerged(small_policy(lora_rank=4)), engine())  # type: ignore[arg-type]
    assert finding.verdict is Verdict.failed
    assert "still samples by the old weights" in finding.lines[-1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (DeafEngine, "still samples by the old weights"),
        (ForgetfulEngine, "neither those of the new weights nor those of the old"),
        (StubbornEngine, "the old weights were handed back, and the engine is"),
    ],
)
def test_an_engine_that_does_not_take_what_it_is_given(wrong: Callable[[RolloutEngine], Any], said: str):
    finding = found(small_policy(), wrong(engine()))
    assert finding.verdict is Verdict.failed
    assert said in finding.lines[-1]
    assert finding.remedies


def test_keys_and_values_of_old_weights():
    finding = found(small_policy(), StaleKeysEngine(small_model()))  # type: ignore[arg-type]
    assert finding.verdict is Verdict.failed
    assert "neither those of the new weights nor those of the old" in finding.lines[-1]
    assert "prefix cache" in finding.remedies[-1]


def test_a_policy_that_updates_do_not_change():
    finding = found(Frozen(small_policy()), engine())  # type: ignore[arg-type]
    assert finding.verdict is Verdict.failed
    assert "do not move the log-probs" in finding.lines[-1]
