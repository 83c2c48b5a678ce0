"""Ranges of the trainer's settings; what the trainer does is shown by whole runs in tests/integration."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from turnwise.trainer import Trainer
from turnwise.trainer_settings import TrainerSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_steps", -1),
        ("keep_checkpoints", -1),
        ("warmup_steps", -1),
        ("eval_every", 0),
        ("save_every", 0),
        ("token_budget", 0),
        ("logit_chunk", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("max_grad_norm", math.nan),
        ("weight_decay", -0.1),
        ("beta1", 1.0),
        ("beta2", -0.5),
    ],
)
def test_a_value_out_of_range_is_named_with_its_key(name: str, value: Any):
    with pytest.raises(ValueError, match=rf"trainer\.{name}={value}"):
        TrainerSettings(**{name: value})


def test_the_learning_rate_rises_over_the_warm_up():
    settings = TrainerSettings(learning_rate=0.4, warmup_steps=4)
    assert [settings.learning_rate_at(step) for step in (0, 1, 2, 3, 4, 1000)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    )


def test_without_a_warm_up_it_is_full_from_the_first_step():
    assert TrainerSettings(learning_rate=0.3).learning_rate_at(0) == 0.3


def test_the_engine_rests_between_sampling_and_learning():
    done: list[str] = []

    def noted(name: str) -> Any:
        async def work(*_: Any) -> None:
            await asyncio.sleep(0)
            done.append(name)

        return work

    parts = SimpleNamespace(
        refresh=noted("refresh"),
        sample=noted("sample"),
        engine=SimpleNamespace(rest=noted("rest")),
        learn=lambda *_: done.append("learn"),
        now=lambda: None,
    )
    asyncio.run(Trainer.step(cast(Trainer, parts), 0))
    assert done == ["refresh", "sample", "rest", "learn"]
