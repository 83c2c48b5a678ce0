import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.rloo import RlooAdvantage


def test_each_against_the_mean_of_the_others(scored):
    # 1 - (0 + .5) / 2 = .75;  0 - (1 + .5) / 2 = -.75;  .5 - (1 + 0) / 2 = 0
    assert RlooAdvantage()([scored([0, 1], [0], [0.25, 0, 0.25])]) == [
        [pytest.approx([0.75, 0.75]), pytest.approx([-0.75]), pytest.approx([0, 0, 0])]
    ]


def test_a_group_of_one_gives_zeros(scored):
    assert RlooAdvantage()([scored([0, 1]), scored([1], [0], id="p1")]) == [[[0, 0]], [[1], [-1]]]


@given(rewards=st.lists(st.sampled_from([-0.1, 0.0, 0.5, 1.0]), min_size=2, max_size=8))
def test_centred_grpo_times_the_group_size_over_one_less(scored, rewards):
    # r - (sum - r) / (G - 1) = (r - sum / G) G / (G - 1)
    group = scored(*[[reward] for reward in rewards])
    factor = len(rewards) / (len(rewards) - 1)
    centred = GroupNormAdvantage(scale_by_std=False)([group])[0]
    assert RlooAdvantage()([group])[0] == [pytest.approx([factor * row[0]]) for row in centred]
    with_field = GroupNormAdvantage(scale_by_std=False, leave_one_out=True)
    assert RlooAdvantage()([group]) == with_field([group])
