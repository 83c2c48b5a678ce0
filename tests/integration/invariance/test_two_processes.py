"""Two processes that each train on a part of the step have, together, the gradient of one that trains on all of it."""

from typing import Any

import pytest
from torch import Tensor

from ragged_steps import assert_same_gradient, updated
from several_ranks import together
from turnwise.core.correction import Correction
from turnwise.core.ratios import RatioLevel
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss
from two_processes import half_steps, whole_step

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


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    return together(half_steps, 2, tmp_path_factory.mktemp("halves"), FIELDS)[0]


@pytest.mark.parametrize("index", range(len(FIELDS)), ids=[str(fields["reduction"]) for fields in FIELDS])
def test_the_halves_of_a_step_add_up(index: int, summed: list[dict[str, Tensor]]):
    alone = updated(whole_step(), ClippedLoss(**FIELDS[index]), has_entropy_gradient=True)
    assert alone.figures["loss/grad_norm"] > 1e-3
    assert_same_gradient(alone.gradient, summed[index])
