import math

import pytest

from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.core.group_statistics import StdKind


def test_one_number_per_trajectory_repeated_over_its_turns(scored):
    # 1, 0, 0, 1: mean .5, population std .5; .5 / (.5 + 1e-6) = .999998
    rows = GroupNormAdvantage()([scored([0, 0, 1], [0], [0, 0], [1])])[0]
    assert [len(row) for row in rows] == [3, 1, 2, 1]
    for row, sign in zip(rows, (1, -1, -1, 1), strict=True):
        assert row == pytest.approx([sign * 0.999998] * len(row), abs=1e-9)


def test_the_number_is_the_undiscounted_sum_of_the_turn_rewards(scored):
    # -.1 + 0 + 1 = .9 and 0 - .1 = -.1: mean .4, +-.5
    rows = GroupNormAdvantage(scale_by_std=False)([scored([-0.1, 0, 1], [0, -0.1])])[0]
    assert rows == [pytest.approx([0.5] * 3), pytest.approx([-0.5] * 2)]


def test_an_outcome_on_the_last_turn_is_the_number_itself(scored):
    component = GroupNormAdvantage()
    long, short = component([scored([0, 0, 1], [0, 0])])[0], component([scored([1], [0])])[0]
    assert [row[0] for row in long] == [row[0] for row in short]


def test_sample_std(scored):
    # 1, 0, 0, 1: squares 1, / 3: std .577350; .5 / .577350 = .866025
    rows = GroupNormAdvantage(std_kind=StdKind.sample, eps=0)([scored([1], [0], [0], [1])])[0]
    assert rows == [pytest.approx([sign * 0.866025], abs=1e-6) for sign in (1, -1, -1, 1)]


def test_eps_enters_the_divisor(scored):
    rows = GroupNormAdvantage(eps=0.5)([scored([1], [0])])[0]
    assert rows == [[0.5], [-0.5]]  # .5 / (.5 + .5)


def test_dr_grpo_only_centres(scored):
    rows = GroupNormAdvantage(scale_by_std=False)([scored([1], [0], [0], [0])])[0]
    assert rows == [[0.75], [-0.25], [-0.25], [-0.25]]


def test_rloo(scored):
    # 1 - 0 = 1; 0 - 1/3
    rows = GroupNormAdvantage(scale_by_std=False, leave_one_out=True)([scored([0, 1], [0], [0], [0, 0])])[0]
    assert rows == [
        pytest.approx([1, 1]),
        pytest.approx([-1 / 3]),
        pytest.approx([-1 / 3]),
        pytest.approx([-1 / 3] * 2),
    ]


def test_groups_are_separate(scored):
    groups = [scored([1], [0]), scored([5], [3], id="p1")]
    assert GroupNormAdvantage(scale_by_std=False)(groups) == [[[0.5], [-0.5]], [[1], [-1]]]


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("scale_by_std", [True, False])
@pytest.mark.parametrize("std_kind", list(StdKind))
def test_no_contrast_gives_zeros(scored, leave_one_out: bool, scale_by_std: bool, std_kind: StdKind):
    component = GroupNormAdvantage(leave_one_out=leave_one_out, scale_by_std=scale_by_std, std_kind=std_kind)
    assert component([scored([0, 1])]) == [[[0, 0]]]
    assert component([scored([0.1], [0, 0.1], [0.1])]) == [[[0], [0, 0], [0]]]


def test_excluded_trajectories_leave_the_statistics(scored):
    rows = GroupNormAdvantage(scale_by_std=False)([scored([1], [7, 7], [0], [], excluded=[1])])[0]
    assert rows == [[0.5], [0, 0], [-0.5], []]


def test_mask_equal_outcomes(scored):
    groups = [scored([-0.1, 0], [0]), scored([1], [0], id="p1")]
    assert GroupNormAdvantage(scale_by_std=False)(groups)[0] == [pytest.approx([-0.05] * 2), pytest.approx([0.05])]
    masked = GroupNormAdvantage(scale_by_std=False, mask_equal_outcomes=True)(groups)
    assert masked == [[[0, 0], [0]], [[0.5], [-0.5]]]


def test_no_groups():
    assert GroupNormAdvantage()([]) == []


@pytest.mark.parametrize("eps", [-1e-6, 1.0, math.nan])
def test_eps_out_of_range(eps: float):
    with pytest.raises(ValueError, match=f"eps={eps}: expected at least 0 and less than 1"):
        GroupNormAdvantage(eps=eps)
