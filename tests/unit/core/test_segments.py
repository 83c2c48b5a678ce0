import pytest
import torch

from turnwise.core.segments import (
    Reduction,
    num_segments_of,
    pair_index,
    position_in_segment,
    reduction_weights,
    segment_mean,
    segment_sum,
)

EMPTY = torch.tensor([], dtype=torch.int64)


def test_sum_and_mean_of_segments_in_any_order():
    values, segment = torch.tensor([1.0, 10.0, 3.0, 20.0]), torch.tensor([0, 2, 0, 2])
    assert segment_sum(values, segment, 4).tolist() == [4, 0, 30, 0]
    assert segment_mean(values, segment, 4).tolist() == [2, 0, 15, 0]  # an empty segment gives 0


def test_gradient_of_a_mean_is_shared_by_its_segment():
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    segment_mean(values, torch.tensor([0, 0, 1]), 2).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.5, 1.0]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"values_N of shape \(3,\) and segment_N of shape \(2,\)"):
        segment_sum(torch.ones(3), torch.tensor([0, 1]), 2)


def test_pairs_are_numbered_in_lexicographic_order():
    # pairs (0,1) (1,0) (0,0) (0,1) -> ranks 1 2 0 1
    assert pair_index(torch.tensor([0, 1, 0, 0]), torch.tensor([1, 0, 0, 1])).tolist() == [1, 2, 0, 1]
    assert pair_index(EMPTY, EMPTY).tolist() == []


def test_position_counts_within_the_segment():
    assert position_in_segment(torch.tensor([0, 0, 0, 2, 5, 5])).tolist() == [0, 1, 2, 0, 0, 1]
    assert position_in_segment(EMPTY).tolist() == []


def test_number_of_segments():
    assert num_segments_of(torch.tensor([0, 4, 2])) == 5
    assert num_segments_of(EMPTY) == 0


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        # Five tokens: sequence 0 has a turn of 1 and a turn of 3 tokens, sequence 1 a turn of 1.
        (Reduction.token, [1 / 5] * 5),
        (Reduction.turn, [1 / 3, 1 / 9, 1 / 9, 1 / 9, 1 / 3]),  # 3 turns; 1 / (3 * 1), 1 / (3 * 3)
        (Reduction.sequence, [1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 2]),  # 2 sequences; 1 / (2 * 4), 1 / (2 * 1)
        (Reduction.constant, [1 / 20] * 5),  # 2 sequences of a nominal 10 tokens
    ],
)
def test_weights_of_each_reduction(reduction: Reduction, expected: list[float]):
    weights = reduction_weights(
        torch.tensor([0, 1, 1, 1, 2]),
        torch.tensor([0, 0, 0, 0, 1]),
        reduction=reduction,
        num_tokens=5,
        num_turns=3,
        num_sequences=2,
        constant_length=10,
    )
    assert weights.tolist() == pytest.approx(expected)
    assert float(weights.sum()) == pytest.approx(0.25 if reduction == Reduction.constant else 1.0)


@pytest.mark.parametrize("reduction", list(Reduction))
def test_no_tokens_have_no_weights(reduction: Reduction):
    counts = {"num_tokens": 0, "num_turns": 0, "num_sequences": 0, "constant_length": 10}
    assert reduction_weights(EMPTY, EMPTY, reduction=reduction, **counts).shape == (0,)
