"""The numbers of a small update, written down: a change that should leave the numerics alone leaves these alone.

A change that means to alter them replaces the table with what this test prints, and says why in its message.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_models import renderer, small_model, token_batch
from turnwise.core.ratios import RatioLevel
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss
from turnwise.model.policy import TorchPolicy

TRACE = Path(__file__).with_name("loss_trace.tsv")
NAMES = ("loss/value", "loss/clip_fraction", "loss/entropy", "loss/grad_norm")
SEQUENCES = [
    ([20, 31, 42, 53, 64, 75, 86], [0, 0, 1, 1, 0, 1, 1]),
    ([20, 31, 90, 91, 92], [0, 0, 1, 1, 1]),
    ([7, 8, 9, 10, 11, 12, 13, 14, 15], [0, 1, 1, 1, 1, 1, 0, 1, 1]),
]


def traced(ratio_level: RatioLevel, reduction: Reduction) -> list[tuple[float, ...]]:
    """Four updates on one batch whose behaviour and proximal policy is the policy before the first of them."""
    model: Any = small_model(seed=1)
    policy = TorchPolicy(
        model,
        renderer(),
        learning_rate=1e-4,
        weight_decay=0.0,
        betas=(0.9, 0.95),
        max_grad_norm=1.0,
        token_budget=16,
        logit_chunk=4,
    )
    batch = token_batch(SEQUENCES, temperature=0.8)
    turn_index = torch.tensor([-1, -1, 0, 0, -1, 1, 1, *(-1, -1, 0, 0, 0), *(-1, 0, 0, 0, 0, 0, -1, 1, 1)])
    before = policy.logprobs(batch)
    batch = replace(batch, turn_index=turn_index, num_loss_turns=5, behaviour_logprobs=before, proximal_logprobs=before)
    loss = ClippedLoss(ratio_level=ratio_level, reduction=reduction, clip_low=0.1, clip_high=0.15)
    rows = [policy.update(batch, loss).metrics for _ in range(4)]
    return [tuple(row[name] for name in NAMES) for row in rows]


def table() -> dict[tuple[str, int], tuple[float, ...]]:
    rows = [line.split("\t") for line in TRACE.read_text().splitlines()[1:]]
    return {(arm, int(step)): tuple(map(float, figures)) for arm, step, *figures in rows}


@pytest.mark.parametrize(
    ("ratio_level", "reduction"),
    [
        (RatioLevel.token, Reduction.token),
        (RatioLevel.turn, Reduction.turn),
        (RatioLevel.sequence, Reduction.sequence),
    ],
)
def test_updates_give_the_numbers_that_were_written_down(ratio_level: RatioLevel, reduction: Reduction):
    for step, figures in enumerate(traced(ratio_level, reduction)):
        print(f"{ratio_level}-{reduction}", step, *(f"{figure:.7g}" for figure in figures), sep="\t")
        # Rounding differs between processors; what changes the maths changes far more than this.
        assert figures == pytest.approx(table()[f"{ratio_level}-{reduction}", step], rel=1e-3, abs=1e-6)
