import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from turnwise.core.returns import discounted_returns


def returns(rows: list[list[float]], discount: float) -> Tensor:
    rewards = torch.tensor([reward for row in rows for reward in row], dtype=torch.float64)
    return discounted_returns(rewards, torch.tensor([g for g, row in enumerate(rows) for _ in row]), discount)


def test_rewards_are_discounted_by_turns():
    # Trajectory 0: R_3 = 1; R_2 = -0.1 + 0.9 * 1 = 0.8; R_1 = 0 + 0.9 * 0.8 = 0.72.  Trajectory 1: R_1 = 0.5.
    assert returns([[0, -0.1, 1], [0.5]], 0.9).tolist() == pytest.approx([0.72, 0.8, 1.0, 0.5])


def test_discount_zero_leaves_the_rewards():
    assert returns([[1, 2, 3], [4, 5]], 0.0).tolist() == [1, 2, 3, 4, 5]


def test_discount_one_and_a_reward_on_the_last_turn_gives_every_turn_the_same_return():
    assert returns([[0, 0, 0.3], [0, 1]], 1.0).tolist() == [0.3, 0.3, 0.3, 1, 1]


def test_statistics_are_in_float64():
    result = discounted_returns(torch.tensor([0.0, 1.0], dtype=torch.float32), torch.tensor([0, 0]), 0.9)
    assert result.dtype == torch.float64
    assert result.tolist() == [0.9, 1.0]


def test_no_turns_give_no_returns():
    assert discounted_returns(torch.tensor([]), torch.tensor([], dtype=torch.int64), 0.9).shape == (0,)


def test_indices_may_skip_numbers():
    rewards = torch.tensor([0.0, 1.0, 2.0])
    assert discounted_returns(rewards, torch.tensor([1, 1, 4]), 0.5).tolist() == [0.5, 1.0, 2.0]


def test_turns_of_a_trajectory_must_lie_together():
    with pytest.raises(ValueError, match=r"must not decrease, got \[0, 1, 0\]"):
        discounted_returns(torch.ones(3), torch.tensor([0, 1, 0]), 0.9)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"turn_rewards_K of shape \(3,\) and trajectory_index_K of shape \(2,\)"):
        discounted_returns(torch.ones(3), torch.tensor([0, 1]), 0.9)


@given(
    rows=st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=6), min_size=1, max_size=6),
    discount=st.floats(0, 1),
)
def test_equals_the_sum_written_as_a_loop(rows: list[list[float]], discount: float):
    expected = [
        sum(discount ** (later - turn) * row[later] for later in range(turn, len(row)))
        for row in rows
        for turn in range(len(row))
    ]
    assert returns(rows, discount).tolist() == pytest.approx(expected, abs=1e-12)
