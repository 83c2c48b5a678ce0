"""Two processes that each train on a part of the step have, together, the gradient of one that trains on all of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from ragged_steps import assert_same_gradient, updated
from turnwise.core.correction import Correction
from turnwise.core.ratios import RatioLevel
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss
from two_processes import half_step, whole_step

FIELDS: list[dict[str, Any]] = [
    {"reduction": Reduction.token, "kl_weight": 0.1, "entropy_weight": 0.01},
    {"reduction": Reduction.turn, "ratio_level": RatioLevel.turn},
    {
        "reduction": Reduction.sequence,
        "ratio_level": RatioLevel.sequence,
        "correction": Correction.truncate,
        "correction_level": RatioLevel.sequence,
    },
]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: str(fields["reduction"]))
def test_the_halves_of_a_step_add_up(fields: dict[str, Any], tmp_path: Path):
    spawn(half_step, (str(tmp_path), fields), nprocs=2)
    together = torch.load(tmp_path / "gradient.pt", weights_only=True)
    alone = updated(whole_step(), ClippedLoss(**fields), has_entropy_gradient=True)
    assert alone.figures["loss/grad_norm"] > 1e-3
    assert_same_gradient(alone.gradient, together)
