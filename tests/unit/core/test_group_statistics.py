import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from turnwise.core.group_statistics import (
    Pool,
    StdKind,
    assign_pools,
    normalise,
    normalise_in_groups,
    pool_mean_std,
    share_weights,
)

# Two groups: group 0 has trajectories of 2 and 1 turns, group 1 one of 2 turns.
GROUP_K, TURN_K = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 0, 0, 1])


def advantages(
    values: Sequence[float],
    pool: list[int],
    trajectory: list[int] | None = None,
    is_member: list[bool] | None = None,
    *,
    std_kind: StdKind = StdKind.population,
    eps: float = 0.0,
    scale_by_std: bool = True,
    leave_one_out: bool = False,
    weight_by_trajectory: bool = False,
) -> list[float]:
    pool_K = torch.tensor(pool, dtype=torch.int64)
    trajectory_K = torch.tensor(trajectory if trajectory is not None else range(len(values)), dtype=torch.int64)
    weights_K = torch.tensor(is_member if is_member is not None else [True] * len(values), dtype=torch.float64)
    return normalise(
        torch.tensor(values, dtype=torch.float64),
        pool_K,
        trajectory_K,
        share_weights(weights_K, pool_K, trajectory_K) if weight_by_trajectory else weights_K,
        std_kind=std_kind,
        eps=eps,
        scale_by_std=scale_by_std,
        leave_one_out=leave_one_out,
    ).tolist()


@pytest.mark.parametrize(
    ("pool", "pools", "members"),
    [
        (Pool.group, [0, 0, 0, 1, 1], [True] * 5),
        (Pool.batch, [0, 0, 0, 0, 0], [True] * 5),
        (Pool.turn_index, [0, 1, 0, 2, 3], [True] * 5),
        (Pool.first_turn, [0, 0, 0, 1, 1], [True, False, True, True, False]),
    ],
)
def test_each_pool_by_hand(pool: Pool, pools: list[int], members: list[bool]):
    pool_K, is_member_K = assign_pools(pool, GROUP_K, TURN_K)
    assert pool_K.tolist() == pools
    assert is_member_K.tolist() == members


def mean_std(values: list[float], weights: list[float], std_kind: StdKind) -> tuple[Tensor, Tensor]:
    return pool_mean_std(
        torch.tensor(values, dtype=torch.float64),
        torch.zeros(len(values), dtype=torch.int64),
        torch.tensor(weights, dtype=torch.float64),
        std_kind,
    )


def test_population_and_sample_std():
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14; / 3 and / 2
    for std_kind, variance in ((StdKind.population, 14 / 3), (StdKind.sample, 7)):
        mean_S, std_S = mean_std([1, 2, 6], [1, 1, 1], std_kind)
        assert mean_S.tolist() == pytest.approx([3])
        assert std_S.tolist() == pytest.approx([math.sqrt(variance)])


def test_weighted_statistics():
    # weights 1/2, 1/2, 1 on 0, 2, 4: mean (0 + 1 + 4) / 2 = 2.5; squares 6.25/2 + 0.25/2 + 2.25 = 5.5
    # population: 5.5 / 2 = 2.75; sample: sum w^2 / sum w = 1.5 / 2 = 0.75, 5.5 / (2 - 0.75) = 4.4
    for std_kind, variance in ((StdKind.population, 2.75), (StdKind.sample, 4.4)):
        mean_S, std_S = mean_std([0, 2, 4], [0.5, 0.5, 1], std_kind)
        assert mean_S.tolist() == pytest.approx([2.5])
        assert std_S.tolist() == pytest.approx([math.sqrt(variance)])


def test_pools_without_members_are_zero_and_not_nan():
    mean_S, std_S = pool_mean_std(
        torch.tensor([3.0, 5.0]).double(), torch.tensor([1, 3]), torch.tensor([1.0, 0.0]).double(), StdKind.sample
    )
    assert mean_S.tolist() == [0, 3, 0, 0]
    assert std_S.tolist() == [0, 0, 0, 0]


def test_normalised_by_hand():
    # 0, 0, 3: mean 1, population std sqrt(6 / 3) = 1.41421, eps 0.1
    expected = [-1 / 1.51421, -1 / 1.51421, 2 / 1.51421]
    assert advantages([0, 0, 3], [0, 0, 0], eps=0.1) == pytest.approx(expected, rel=1e-5)
    # sample std sqrt(6 / 2) = 1.73205
    expected = [-1 / 1.73205, -1 / 1.73205, 2 / 1.73205]
    assert advantages([0, 0, 3], [0, 0, 0], std_kind=StdKind.sample) == pytest.approx(expected, rel=1e-5)
    assert advantages([0, 0, 3], [0, 0, 0], scale_by_std=False) == pytest.approx([-1, -1, 2])


def test_pools_do_not_mix():
    # pool 0: 0, 2 -> -1, 1; pool 1: 5, 6 -> -1, 1
    assert advantages([0, 5, 2, 6], [0, 1, 0, 1]) == pytest.approx([-1, -1, 1, 1])


def test_leave_one_out_is_rloo():
    # 1 - (0 + 0.5) / 2 = 0.75; 0 - (1 + 0.5) / 2 = -0.75; 0.5 - (1 + 0) / 2 = 0
    result = advantages([1, 0, 0.5], [0, 0, 0], scale_by_std=False, leave_one_out=True)
    assert result == pytest.approx([0.75, -0.75, 0])


def test_leave_one_out_leaves_out_all_turns_of_the_trajectory():
    # trajectory 0: 1, 3; trajectory 1: 6.  1 - 6, 3 - 6, 6 - (1 + 3) / 2
    result = advantages([1, 3, 6], [0, 0, 0], [0, 0, 1], scale_by_std=False, leave_one_out=True)
    assert result == pytest.approx([-5, -3, 4])


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("scale_by_std", [True, False])
def test_turns_of_one_trajectory_are_no_comparison(scale_by_std: bool, leave_one_out: bool):
    # pool 0 holds trajectory 3 alone, pool 1 trajectories 1 and 3 in any order: 5 against 1
    result = advantages(
        [1, 3, 5, 1], [0, 0, 1, 1], [3, 3, 3, 1], scale_by_std=scale_by_std, leave_one_out=leave_one_out
    )
    assert result[:2] == [0, 0]
    assert result[2] == -result[3] > 0


def test_only_members_count_as_siblings():
    # Trajectory 1 is measured against the pool but is no member: 1 and 3 of trajectory 0 are all there is.
    assert advantages([1, 3, 5], [0, 0, 0], [0, 0, 1], [True, True, False]) == [0, 0, 0]
    # Members 1 and 5 are of two trajectories: mean 3, std 2; the outsider 4 gets .5
    assert advantages([1, 4, 5], [0, 0, 0], [0, 0, 1], [True, False, True]) == [-1, 0.5, 1]


def test_trajectories_of_other_groups_are_siblings_in_a_common_pool():
    assert advantages([0, 2], [0, 0], [0, 7]) == [-1, 1]


def test_in_groups_each_trajectory_is_one_number():
    # group 0: 1, 0, 0.5 -> mean .5; group 1: a single 3
    values_G, group_G = torch.tensor([1, 0, 0.5, 3]), torch.tensor([0, 0, 0, 1])
    fields = {"std_kind": StdKind.population, "eps": 0.0, "scale_by_std": False}
    assert normalise_in_groups(values_G, group_G, **fields).tolist() == [0.5, -0.5, 0, 0]
    # 1 - .25, 0 - .75, .5 - .5
    assert normalise_in_groups(values_G, group_G, **fields, leave_one_out=True).tolist() == [0.75, -0.75, 0, 0]
    assert normalise_in_groups(torch.tensor([]), torch.tensor([], dtype=torch.int64), **fields).shape == (0,)


def test_leave_one_out_with_trajectory_weights():
    # trajectory 0: 1, 3 (weight 1/2 each); 1: 6; 2: 0.  Of trajectory 1: 6 - (2 + 0) / 2 = 5
    values, trajectory = [1, 3, 6, 0], [0, 0, 1, 2]
    result = advantages(values, [0] * 4, trajectory, scale_by_std=False, leave_one_out=True, weight_by_trajectory=True)
    assert result == pytest.approx([1 - 3, 3 - 3, 6 - 1, 0 - 4])


def test_weight_by_trajectory():
    # trajectory 0: 0, 0 (weight 1/2 each); trajectory 1: 4.  mean (0 + 0 + 4) / 2 = 2;
    # squares 0.5 * 4 + 0.5 * 4 + 1 * 4 = 8, / 2 = 4, std 2; unweighted the mean is 4/3
    assert advantages([0, 0, 4], [0, 0, 0], [0, 0, 1], weight_by_trajectory=True) == pytest.approx([-1, -1, 1])
    unweighted = advantages([0, 0, 4], [0, 0, 0], [0, 0, 1], scale_by_std=False)
    assert unweighted == pytest.approx([-4 / 3, -4 / 3, 8 / 3])


def test_values_outside_the_pool_are_measured_against_it():
    # members 0 and 2: mean 1, std 1; the outsider 5 gets 4 and moves nothing
    assert advantages([0, 5, 2], [0, 0, 0], [0, 0, 1], [True, False, True]) == pytest.approx([-1, 4, 1])


@pytest.mark.parametrize("scale_by_std", [True, False])
@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("std_kind", list(StdKind))
def test_a_pool_without_spread_gives_exact_zeros(scale_by_std: bool, leave_one_out: bool, std_kind: StdKind):
    # 0.1 is not a binary fraction: the mean of seven of them is not exactly 0.1
    for count in (1, 2, 7):
        result = advantages(
            [0.1] * count + [0.7],
            [0] * (count + 1),
            is_member=[True] * count + [False],
            std_kind=std_kind,
            scale_by_std=scale_by_std,
            leave_one_out=leave_one_out,
        )
        assert result == [0.0] * (count + 1)


def test_small_spread_is_no_rounding():
    assert advantages([0, 1e-6], [0, 0]) == pytest.approx([-1, 1])


def test_rounding_is_relative_to_the_mean():
    # Around 1e6 doubles are 1e-10 apart: such a difference is rounding there, and a spread around 0.
    assert advantages([1e6, 1e6 + 2e-10], [0, 0]) == [0, 0]
    assert advantages([0, 2e-10], [0, 0]) == pytest.approx([-1, 1])


def test_centred_pools_have_zero_mean_and_unit_variance():
    values = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pool = [i % 4 for i in range(40)]
    result = torch.tensor(advantages(values.tolist(), pool))
    for index in range(4):
        members = result[index::4]
        assert float(members.mean()) == pytest.approx(0, abs=1e-6)
        assert float(members.var(correction=0)) == pytest.approx(1, abs=1e-5)


def test_nothing_in_nothing_out():
    assert advantages([], []) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_must_be_finite(bad: float):
    with pytest.raises(ValueError, match=r"NaN or infinity at \[1\]"):
        advantages([0, bad], [0, 0])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"expected one shape, got \[\(2,\), \(1,\), \(2,\), \(2,\)\]"):
        advantages([0, 1], [0])
