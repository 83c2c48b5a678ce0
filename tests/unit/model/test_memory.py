"""The memory of a run, from shapes: what is exact is compared with a policy that has taken a step."""

from dataclasses import replace

import pytest
import torch

from tiny_models import PolicyGradientLoss, small_model, small_policy, token_batch
from turnwise.model.adapter import add_adapter
from turnwise.model.memory import FLOAT32_BYTES, MemoryEstimate, ModelShape, estimate_memory

BATCH = token_batch([((20, 21, 22, 23), (0, 0, 1, 1)), ((30, 31, 32), (0, 1, 1))])


def estimate(model: object, **values: object) -> MemoryEstimate:
    usual = {"dtype": torch.float32, "token_budget": 64, "logit_chunk": 32, "cache_bytes": 0}
    return estimate_memory(ModelShape.of(model), **(usual | values))  # type: ignore[arg-type]


def num_trained(rank: int) -> int:
    """Of an adapter."""
    model = small_model()
    add_adapter(model, rank=rank, alpha=32.0)
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


@pytest.mark.parametrize("rank", [0, 4])
def test_weights_and_optimiser_are_those_of_a_policy_that_has_taken_a_step(rank: int):
    if rank:
        pytest.importorskip("peft")
    model = small_model()
    counted = estimate(model, num_trained=num_trained(rank) if rank else None)
    policy = small_policy(model, lora_rank=rank)
    policy.update(BATCH, PolicyGradientLoss())
    assert counted.weights == sum(weight.numel() * weight.itemsize for weight in model.parameters())
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert counted.gradients == sum(weight.numel() * FLOAT32_BYTES for weight in trained)
    moments = [moment for state in policy.state_dict()["state"].values() for moment in state.values() if moment.dim()]
    assert counted.optimiser == sum(moment.numel() * moment.itemsize for moment in moments)


def test_an_adapter_takes_less_and_checkpointing_too():
    pytest.importorskip("peft")
    model = small_model()
    assert estimate(model, num_trained=num_trained(2)).total < estimate(model).total
    assert estimate(model, gradient_checkpointing=True).activations < estimate(model).activations


def test_sharding_deals_out_what_is_trained_and_nothing_else():
    counted = estimate(small_model(), has_reference=True)
    dealt_out = counted.weights + counted.gradients + counted.optimiser + counted.reference
    assert counted.sharded(4) == pytest.approx(counted.total - dealt_out * 3 / 4)
    assert counted.sharded(1) == counted.total


def test_all_weights_gathered_for_the_engine_count_where_they_take_more_than_a_micro_batch():
    counted = replace(estimate(small_model()), activations=100, logits=10)
    assert counted.weights > 110
    dealt_out = counted.weights + counted.gradients + counted.optimiser
    assert counted.sharded(2) == pytest.approx(counted.total - dealt_out / 2 - 110 + counted.weights)
