import pytest
import torch

from turnwise.core.turns import Turns


def turns(rows: list[list[float]], outcomes: list[float], num_tokens: list[int] | None = None) -> Turns:
    """All trajectories in one group."""
    flat = [reward for row in rows for reward in row]
    return Turns(
        rewards_K=torch.tensor(flat, dtype=torch.float64),
        outcomes_G=torch.tensor(outcomes, dtype=torch.float64),
        num_tokens_K=torch.tensor(num_tokens if num_tokens is not None else [1] * len(flat), dtype=torch.int64),
        turn_index_K=torch.tensor([k for row in rows for k in range(len(row))], dtype=torch.int64),
        trajectory_index_K=torch.tensor([g for g, row in enumerate(rows) for _ in row], dtype=torch.int64),
        group_index_G=torch.zeros(len(rows), dtype=torch.int64),
        has_equal_outcomes_G=torch.zeros(len(rows), dtype=torch.bool),
    )


def test_rewards_and_tokens_of_a_trajectory_are_those_of_its_turns():
    step = turns([[-0.1, 0.25, 1], [0.5]], [1, 0], num_tokens=[3, 4, 5, 7])
    assert step.rewards_G.tolist() == pytest.approx([1.15, 0.5])
    assert step.num_tokens_G.tolist() == [12, 7]
    assert step.num_tokens_G.dtype == torch.int64


def test_process_rewards_leave_the_outcome_out_of_the_last_turn():
    # 0.9 = -0.1 + 1; the second trajectory has one turn, its first and last; the third failed: outcome 0
    step = turns([[0, -0.1, 0.9], [1], [-0.1, 0]], [1, 1, 0])
    assert step.process_rewards_K.tolist() == pytest.approx([0, -0.1, -0.1, 0, -0.1, 0])
    assert step.rewards_K.tolist() == [0, -0.1, 0.9, 1, -0.1, 0], "the rewards stay as they are"


def test_no_turns():
    empty = turns([], [])
    assert empty.process_rewards_K.shape == empty.rewards_G.shape == empty.num_tokens_G.shape == (0,)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"Turns\.num_tokens_K has shape \(2,\), expected \(3,\)"):
        turns([[0, 0], [1]], [0, 1], num_tokens=[1, 1])
    with pytest.raises(ValueError, match=r"Turns\.outcomes_G has shape \(1,\), expected \(2,\)"):
        turns([[0, 0], [1]], [0])
