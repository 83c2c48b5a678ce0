"""Seconds of a step from shapes and rates, by hand for a model of round numbers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from turnwise.model.memory import ModelShape
from turnwise.model.step_time import (
    LAYER_PASS_S,
    PASS_SHARE,
    Rates,
    StepSize,
    Timed,
    estimate_step,
    longest_of,
    measured_rates,
)

SHAPE = ModelShape(
    num_parameters=1_200_000,
    num_layers=4,
    hidden_size=100,
    intermediate_size=400,
    num_query_channels=100,
    num_key_value_channels=50,
    vocab_size=2000,
    is_tied=True,
)
SIZE = StepSize(
    num_problems=2,
    group_size=5,
    prompt_tokens=20,
    new_tokens=30,
    longest_tokens=30,
    max_batch_size=10,
    token_budget=100,
)
SLOW_PRODUCTS = Rates(flops=1e6, bytes=1e15)
SLOW_MEMORY = Rates(flops=1e18, bytes=1e6)


def seconds(rates: Rates, **changes: Any) -> Any:
    settings = {"dtype": torch.float32, "num_trained": SHAPE.num_parameters}
    size = replace(SIZE, **{name: value for name, value in changes.items() if hasattr(SIZE, name)})
    settings |= {name: value for name, value in changes.items() if not hasattr(SIZE, name)}
    return estimate_step(SHAPE, size, rates, **settings)


def test_weights_of_a_tied_embedding_count_once():
    assert SHAPE.num_layer_weights == 1_000_000
    assert replace(SHAPE, is_tied=False).num_layer_weights == 800_000


def test_an_update_is_three_passes_over_prompts_once_and_samples():
    # prompts 2 x 20 and samples 10 x 30 through a million weights, samples through 200,000 of the head,
    # attention 4 x 4 x 100 = 1600 for a token and each before it: 2 x 20^2 / 2 + 300 x (20 + 15)
    forward = 2 * (1e6 * 340 + 2e5 * 300) + 1600 * (400 + 10500)
    overhead = 3.4 * 3 * 4 * LAYER_PASS_S  # 340 tokens in micro-batches of 100, three passes, four layers
    assert seconds(SLOW_PRODUCTS).update_s == pytest.approx(3 * forward / 1e6 / PASS_SHARE + overhead, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"gradient_checkpointing": True}, 4),
        ({"trains_adapter": True}, 2),
        ({"num_epochs": 2, "is_on_policy": False}, 7),
        ({"has_reference": True}, 4),
    ],
)
def test_what_computes_more_takes_as_much_longer(changes: dict[str, Any], passes: int):
    assert seconds(SLOW_PRODUCTS, **changes).update_s == pytest.approx(
        seconds(SLOW_PRODUCTS).update_s * passes / 3, rel=1e-4
    )


def test_decoding_is_bound_by_memory():
    # each of 30 passes reads 1.2 million weights, and of ten rows keys and values of 50 tokens: 2 x 4 x 50 numbers each
    read = 4 * (1.2e6 + 10 * 2 * 4 * 50 * 50)
    expected = 30 * (read / 1e6 + 4 * LAYER_PASS_S)
    assert seconds(SLOW_MEMORY).decode_s == pytest.approx(expected, rel=1e-6)
    half = seconds(SLOW_MEMORY, max_batch_size=5).decode_s
    assert half > 1.8 * expected, "ten trajectories in two batches read all weights twice"
    assert seconds(SLOW_MEMORY, dtype=torch.bfloat16).decode_s < 0.51 * expected


def test_a_step_waits_for_its_longest_trajectory():
    # 60 passes, half of them as wide: the same keys and values, and twice the weights
    expected = 60 * (4 * (1.2e6 + 5 * 2 * 4 * 50 * 50) / 1e6 + 4 * LAYER_PASS_S)
    assert seconds(SLOW_MEMORY, longest_tokens=60).decode_s == pytest.approx(expected, rel=1e-6)


def test_sampling_and_update_go_by_what_a_little_of_them_took():
    half = replace(SIZE, num_problems=1)
    assumed, expected = seconds(SLOW_PRODUCTS, num_problems=1), seconds(SLOW_PRODUCTS)
    # 30 passes of 4 layers took 12 s more than is assumed, that is 0.1 s a layer; those of a step are as many
    sampled = Timed(size=half, seconds=assumed.prefill_s + assumed.decode_s + 12)
    found = seconds(SLOW_PRODUCTS, sampled=sampled)
    assert found.prefill_s == expected.prefill_s
    assert found.decode_s == pytest.approx(expected.decode_s + 12, rel=1e-6)
    assert found.update_s == expected.update_s
    found = seconds(SLOW_PRODUCTS, updated=Timed(size=half, seconds=3 * assumed.update_s))
    assert found.decode_s == expected.decode_s
    assert found.update_s == pytest.approx(3 * expected.update_s, rel=1e-6)


def test_sampling_that_was_quicker_than_its_work_has_no_idle_time():
    quick = Timed(size=SIZE, seconds=1e-9)
    assert seconds(SLOW_MEMORY, sampled=quick).decode_s == pytest.approx(30 * 4 * (1.2e6 + 200_000) / 1e6, rel=1e-6)


def test_every_minibatch_is_a_pass_and_a_step_of_the_optimiser():
    one, eight = (seconds(SLOW_MEMORY, num_minibatches=number).update_s for number in (1, 8))
    # eight micro-batches in place of 3.4, three passes, four layers; and AdamW seven times more
    expected = (8 - 3.4) * 3 * 4 * LAYER_PASS_S + 7 * 7 * 4 * 1.2e6 / 1e6
    assert eight - one == pytest.approx(expected, rel=1e-6)


def test_the_longest_of_many_is_longer_than_that_of_a_few():
    # mean 20, standard deviation 10; sqrt(2 log 200) = 3.2552
    assert longest_of([10, 30], 200, limit=100) == pytest.approx(20 + 32.552, abs=1e-3)
    assert longest_of([10, 30], 200, limit=40) == 40
    assert longest_of([10, 30], 1, limit=40) == 30
    assert longest_of([25], 100, limit=40) == 25


def test_the_optimiser_reads_and_writes_every_weight():
    alone = seconds(SLOW_MEMORY).update_s - seconds(replace(SLOW_MEMORY, bytes=1e18)).update_s
    assert alone == pytest.approx(7 * 4 * 1.2e6 / 1e6, rel=1e-6)


def test_devices_share_trajectories():
    assert seconds(SLOW_PRODUCTS, num_devices=5).update_s < 0.3 * seconds(SLOW_PRODUCTS).update_s


def test_rates_are_measured():
    rates = measured_rates(SHAPE, torch.float32, torch.device("cpu"), num_tokens=64)
    assert 1e6 < rates.flops < 1e16
    assert 1e6 < rates.bytes < 1e14
