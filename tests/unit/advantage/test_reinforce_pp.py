import math

import pytest

from turnwise.advantage.reinforce_pp import ReinforcePPAdvantage
from turnwise.core.group_statistics import StdKind

# Turns have two tokens each: the rewards 1, 0 and 0 weigh 4, 2 and 2 tokens. p1 is a group of one.
GROUPS = (([0, 1], [0]), ([0],))


def advantages(scored, **fields) -> list[list[float]]:
    groups = [scored(*rows, id=f"p{p}") for p, rows in enumerate(GROUPS)]
    return [row for rows in ReinforcePPAdvantage(eps=0, **fields)(groups) for row in rows]


def test_whitened_over_the_tokens_of_the_batch(scored):
    # mean 4 / 8 = .5; variance (4 + 2 + 2) .25 / 8 = .25, std .5; (1 - .5) / .5 = 1, (0 - .5) / .5 = -1
    assert advantages(scored) == [[1, 1], [-1], [-1]]


def test_whitened_over_trajectories(scored):
    # mean 1/3; variance (4/9 + 1/9 + 1/9) / 3 = 2/9, std .471405; (2/3) / .471405 = 1.414214, (-1/3) / .471405
    first, second, third = advantages(scored, weight_by_tokens=False)
    assert [*first, *second, *third] == pytest.approx([1.414214, 1.414214, -0.707107, -0.707107], abs=1e-6)


def test_sample_std(scored):
    # squares 2/3, / 2: std .577350; (2/3) / .577350 = 1.154701, (-1/3) / .577350 = -.577350
    first, second, third = advantages(scored, weight_by_tokens=False, std_kind=StdKind.sample)
    assert [*first, *second, *third] == pytest.approx([1.154701, 1.154701, -0.577350, -0.577350], abs=1e-6)


def test_group_baseline_comes_first(scored):
    # p0 centred: .5, -.5; p1 is alone and enters as 0. mean 0, variance .5 / 3, std .408248; .5 / .408248 = 1.224745
    first, second, third = advantages(scored, group_baseline=True, weight_by_tokens=False)
    assert [*first, *second] == pytest.approx([1.224745, 1.224745, -1.224745], abs=1e-6)
    assert third == [0]


def test_group_baseline_over_tokens(scored):
    # .5, -.5, 0 weigh 4, 2, 2: mean (2 - 1 + 0) / 8 = .125; squares 4 (.375)^2 + 2 (.625)^2 + 2 (.125)^2 = 1.375,
    # variance .171875, std .414578; .375 / .414578 = .904534, -.625 / .414578 = -1.507557, -.125 / .414578 = -.301511
    first, second, third = advantages(scored, group_baseline=True)
    assert [*first, *second, *third] == pytest.approx([0.904534, 0.904534, -1.507557, -0.301511], abs=1e-6)


def test_eps_enters_the_divisor(scored):
    groups = [scored([1], [0])]
    assert ReinforcePPAdvantage(eps=0.5)(groups) == [[[0.5], [-0.5]]]  # .5 / (.5 + .5)


def test_only_the_baseline_compares_siblings():
    assert ReinforcePPAdvantage(group_baseline=True).compares_siblings
    assert not ReinforcePPAdvantage().compares_siblings


@pytest.mark.parametrize("eps", [-1e-6, 1.0, math.nan])
def test_eps_out_of_range(eps: float):
    with pytest.raises(ValueError, match=f"eps={eps}: expected at least 0 and less than 1"):
        ReinforcePPAdvantage(eps=eps)
