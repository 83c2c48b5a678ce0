import pytest
import torch

from turnwise.advantage.ragged import flatten, unflatten


def test_included_turns_lie_end_to_end(scored):
    groups = [
        scored([0, 1], [9, 9, 9], [0.5], excluded=[1]),
        scored([9], excluded=[0], id="p1"),
        scored([], [-0.1, 0, 1], id="p2"),  # nothing sampled, then three turns
    ]
    turns = flatten(groups)
    assert turns.rewards_K.tolist() == [0, 1, 0.5, -0.1, 0, 1]
    assert turns.rewards_K.dtype == torch.float64
    assert turns.num_tokens_K.tolist() == [2] * 6, "the builder's turns have two tokens each"
    assert turns.turn_index_K.tolist() == [0, 1, 0, 0, 1, 2]
    assert turns.trajectory_index_K.tolist() == [0, 0, 1, 2, 2, 2]
    assert turns.group_index_G.tolist() == [0, 0, 2]
    # group p0: right and wrong; p2: its only included trajectory is right
    assert turns.has_equal_outcomes_G.tolist() == [False, False, True]


def test_numbers_return_to_their_turns(scored):
    groups = [scored([0, 1], [9, 9, 9], [0.5], excluded=[1]), scored([], [0, 0], id="p1")]
    values_K = torch.tensor([1, 2, 3, 4, 5], dtype=torch.float64)
    assert unflatten(values_K, groups) == [[[1, 2], [0, 0, 0], [3]], [[], [4, 5]]]


def test_outcomes_of_excluded_trajectories_do_not_count(scored):
    group = scored([1], [1], [0], excluded=[2])
    assert flatten([group]).has_equal_outcomes_G.tolist() == [True, True]


def test_no_groups():
    turns = flatten([])
    assert turns.rewards_K.shape == turns.trajectory_index_K.shape == turns.group_index_G.shape == (0,)
    assert unflatten(turns.rewards_K, []) == []


def test_a_reward_that_is_not_a_number_never_gets_here(scored):
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        scored([0, float("nan")])
