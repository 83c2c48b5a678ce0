import math

import pytest
import torch
from torch import Tensor

from turnwise.core.correction import Correction, correction_weights
from turnwise.core.ratios import RatioLevel

# Ratios 4, 1/2 in a turn, 3 in the next, all of sequence 0; 1/4 in sequence 1.
RATIOS = (4.0, 0.5, 3.0, 0.25)
TURN, SEQUENCE = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 0, 1])


def weights(correction: Correction, level: RatioLevel, ratios: Tensor | None = None) -> list[float]:
    log_ratio = torch.tensor(RATIOS).log() if ratios is None else ratios.log()
    return correction_weights(
        log_ratio, TURN, SEQUENCE, correction=correction, level=level, low=0.45, high=2.5
    ).tolist()


@pytest.mark.parametrize(
    ("correction", "level", "expected"),
    [
        (Correction.truncate, RatioLevel.token, [2.5, 0.5, 2.5, 0.25]),
        (Correction.truncate, RatioLevel.turn, [2, 2, 2.5, 0.25]),  # 4 * 1/2 = 2
        (Correction.truncate, RatioLevel.sequence, [2.5, 2.5, 2.5, 0.25]),  # 4 * 1/2 * 3 = 6
        (Correction.mask, RatioLevel.token, [0, 0.5, 0, 0]),
        (Correction.mask, RatioLevel.turn, [2, 2, 0, 0]),
        (Correction.mask, RatioLevel.sequence, [0, 0, 0, 0]),
        (Correction.geometric, RatioLevel.token, [0, 1, 0, 0]),
        (Correction.geometric, RatioLevel.turn, [1, 1, 0, 0]),  # sqrt 2 = 1.41
        (Correction.geometric, RatioLevel.sequence, [1, 1, 1, 0]),  # 6^(1/3) = 1.82
        *((Correction.none, level, [1, 1, 1, 1]) for level in RatioLevel),
    ],
)
def test_by_hand(correction: Correction, level: RatioLevel, expected: list[float]):
    assert weights(correction, level) == pytest.approx(expected)


@pytest.mark.parametrize("level", list(RatioLevel))
@pytest.mark.parametrize("correction", list(Correction))
def test_where_sampler_and_trainer_agree_every_weight_is_one(correction: Correction, level: RatioLevel):
    assert weights(correction, level, torch.ones(4)) == [1, 1, 1, 1]


@pytest.mark.parametrize("correction", list(Correction))
def test_long_products_stay_finite(correction: Correction):
    # 4,000 tokens at a ratio of e: e^4000 is held at e^20, and so is its inverse.
    sequence = torch.arange(2).repeat_interleave(4000)
    log_ratio = torch.where(sequence == 0, 1.0, -1.0)
    found = correction_weights(
        log_ratio, sequence, sequence, correction=correction, level=RatioLevel.sequence, low=0, high=math.inf
    )
    expected = [math.exp(20), math.exp(-20)] if correction in (Correction.truncate, Correction.mask) else [1, 1]
    assert found[[0, 4000]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("correction", list(Correction))
def test_without_gradient_and_without_tokens(correction: Correction):
    log_ratio = torch.zeros(4, requires_grad=True)
    bounds = {"correction": correction, "level": RatioLevel.turn, "low": 0.5, "high": 2.0}
    assert not correction_weights(log_ratio, TURN, SEQUENCE, **bounds).requires_grad
    nothing = torch.zeros(0, dtype=torch.int64)
    assert correction_weights(nothing.float(), nothing, nothing, **bounds).tolist() == []


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"expected one shape, got \[\(2,\), \(4,\), \(4,\)\]"):
        weights(Correction.mask, RatioLevel.token, torch.ones(2))


@pytest.mark.parametrize(("correction", "low_weight", "high_weight"), [(Correction.mask, 0.5, 2), ("geometric", 1, 1)])
def test_the_bounds_belong_to_the_band(correction: Correction, low_weight: float, high_weight: float):
    # Powers of two, whose logarithms come back exactly.
    segments = torch.arange(2)
    found = correction_weights(
        torch.tensor([0.5, 2.0]).double().log(),
        segments,
        segments,
        correction=correction,
        level=RatioLevel.token,
        low=0.5,
        high=2.0,
    )
    assert found.tolist() == pytest.approx([low_weight, high_weight])


def test_a_plain_string_means_its_member():
    assert weights("geometric", RatioLevel.sequence) == weights(Correction.geometric, RatioLevel.sequence)  # pyright: ignore
