"""Real runs of the tiny policy, small enough for a test."""

from collections.abc import Callable
from pathlib import Path

SMALL = (
    "rollout.num_problems=3",
    "rollout.group_size=4",
    "evaluation.num_problems=8",
    "trainer.num_steps=3",
    "trainer.eval_every=2",
    "trainer.save_every=1",
    "trainer.device=cpu",
)
"""A run of three steps in seconds; later overrides of the same key win."""

Run = Callable[..., Path]
