"""What a baseline per turn index would charge for going on, by hand and against a loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnwise.core.turn_index_bias import turn_index_bias
from turnwise.core.turns import Turns

Groups = list[list[list[float]]]

GROUPS = st.lists(
    st.lists(st.lists(st.sampled_from([-0.1, 0.0, 0.25, 1.0]), min_size=1, max_size=4), min_size=1, max_size=4),
    min_size=1,
    max_size=3,
)


def flat(groups: Groups) -> Turns:
    rows = [row for group in groups for row in group]
    return Turns(
        rewards_K=torch.tensor([reward for row in rows for reward in row], dtype=torch.float64),
        outcomes_G=torch.zeros(len(rows), dtype=torch.float64),
        num_tokens_K=torch.ones(sum(map(len, rows)), dtype=torch.int64),
        turn_index_K=torch.tensor([k for row in rows for k in range(len(row))], dtype=torch.int64),
        trajectory_index_K=torch.tensor([g for g, row in enumerate(rows) for _ in row], dtype=torch.int64),
        group_index_G=torch.tensor([p for p, group in enumerate(groups) for _ in group], dtype=torch.int64),
        has_equal_outcomes_G=torch.zeros(len(rows), dtype=torch.bool),
    )


def test_by_hand():
    # Means by turn index: -.05, .5, 0. The first turns pay .9 * .5 = .45 and .9 * .5 + .81 * 0 = .45, the second turn
    # of the longer trajectory pays .9 * 0: -(.45 + .45 + 0) / 3
    groups = [[[0.0, 1.0], [-0.1, 0.0, 0.0]]]
    assert turn_index_bias(flat(groups), 0.9) == pytest.approx(-0.3)
    assert turn_index_bias(flat(groups), 0.0) == 0  # nobody sums over later turns


def test_groups_have_means_of_their_own():
    # Group 1 pays 1 for its second turn, group 2 nothing: -(1 + 1 + 0 + 0) / 4
    assert turn_index_bias(flat([[[0.0, 1.0]] * 2, [[0.0, 0.0]] * 2]), 1.0) == -0.5


def test_a_trajectory_that_stops_pays_nothing():
    # Only the first trajectory goes on; the mean at its second turn is its own reward.
    assert turn_index_bias(flat([[[0.0, 0.4], [1.0], [1.0]]]), 1.0) == pytest.approx(-0.4)
    assert turn_index_bias(flat([[[1.0], [0.0]]]), 1.0) == 0


def test_no_turns_no_bias():
    assert turn_index_bias(flat([]), 0.9) == 0


@given(GROUPS, st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_against_a_loop(groups: Groups, discount: float):
    prices = []
    for group in groups:
        for row in group:
            for k in range(len(row) - 1):
                price = 0.0
                for later in range(k + 1, len(row)):
                    earned = [other[later] for other in group if len(other) > later]
                    price -= discount ** (later - k) * sum(earned) / len(earned)
                prices.append(price)
    expected = sum(prices) / len(prices) if prices else 0.0
    assert turn_index_bias(flat(groups), discount) == pytest.approx(expected, abs=1e-12)
