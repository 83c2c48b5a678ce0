"""The table "Degenerate input" of docs/PAPER.md, estimator by estimator."""

import pytest
from hydra.utils import get_class

from turnwise.advantage.discounted_normalised import DiscountedNormalisedAdvantage
from turnwise.advantage.end_aligned import EndAlignedAdvantage
from turnwise.advantage.gigpo import GiGPOAdvantage
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.hybrid_turn import HybridTurnAdvantage
from turnwise.advantage.mt_grpo import MTGRPOAdvantage
from turnwise.advantage.reinforce_pp import ReinforcePPAdvantage
from turnwise.advantage.rloo import RlooAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.config.schema import COMPONENTS
from turnwise.core.group_statistics import Pool
from turnwise.protocols import AdvantageEstimator

IN_BATCH = (
    TurnReturnAdvantage(pool=Pool.batch, eps=0),
    DiscountedNormalisedAdvantage(pool=Pool.batch, eps=0),
    ReinforcePPAdvantage(eps=0),
)


def test_every_estimator_is_tried(estimators: list[AdvantageEstimator]):
    classes = {get_class(target) for key, target in COMPONENTS.items() if key.startswith("advantage/")}
    assert {type(estimator) for estimator in estimators} == classes
    assert {type(estimator) for estimator in ALIKE} == {type(estimator) for estimator in ONE_TURN} == classes


def test_no_groups(estimator: AdvantageEstimator):
    assert estimator([]) == []


def test_nothing_included(scored, estimator: AdvantageEstimator):
    groups = [scored([1, 0], [1], excluded=[0, 1]), scored([], id="p1")]
    assert estimator(groups) == [[[0, 0], [0]], [[]]]


@pytest.mark.parametrize("row", [[1], [-0.1, 0, 1]])
def test_a_single_trajectory_in_the_step(scored, estimator: AdvantageEstimator, row: list[float]):
    assert estimator([scored(row, outcomes=[1])]) == [[[0] * len(row)]]
    assert estimator([scored(row, [0, 1], outcomes=[1, 1], excluded=[1])]) == [[[0] * len(row), [0, 0]]]


def test_a_group_of_one_beside_others(scored, estimator: AdvantageEstimator):
    pair = scored([0, 1], [0, 0], outcomes=[1, 0])
    alone = scored([-0.1, 1], outcomes=[1], id="p1")
    left = scored([-0.1, 1], [0], outcomes=[1, 0], excluded=[1], id="p1")
    row = estimator([pair, alone])[1][0]
    assert estimator([pair, left])[1] == [row, [0]]
    if estimator.compares_siblings:
        # Also of REINFORCE++-baseline: here the other group's tokens are balanced, so the mean of the batch is 0.
        assert row == [0, 0]
    else:
        assert any(row)


@pytest.mark.parametrize("estimator", IN_BATCH, ids=lambda estimator: type(estimator).__name__)
def test_a_group_of_one_is_measured_against_the_batch(scored, estimator: AdvantageEstimator):
    # numbers 1 and 0: mean .5, std .5
    assert estimator([scored([1]), scored([0], id="p1")]) == [[[1]], [[-1]]]


def test_every_reward_is_zero(scored, estimator: AdvantageEstimator):
    groups = [scored([0, 0, 0], [0], [0, 0]), scored([0], [0, 0], id="p1")]
    assert estimator(groups) == [[[0, 0, 0], [0], [0, 0]], [[0], [0, 0]]]


ALIKE = {
    # Returns .5, 1 in each: mean .75, std .25
    TurnReturnAdvantage(discount=0.5, eps=0): [-1, 1],
    TurnReturnAdvantage(discount=0.5, eps=0, pool=Pool.batch): [-1, 1],
    TurnReturnAdvantage(discount=0.5, pool=Pool.turn_index): [0, 0],
    TurnReturnAdvantage(discount=0.5, pool=Pool.first_turn): [0, 0],
    GroupNormAdvantage(): [0, 0],
    RlooAdvantage(): [0, 0],
    ReinforcePPAdvantage(): [0, 0],
    ReinforcePPAdvantage(group_baseline=True): [0, 0],
    MTGRPOAdvantage(): [0, 0],
    HybridTurnAdvantage(): [0, 0],
    # Rewards 0, 1 in each: mean .5, std .5: -1, 1; -1 + .5 * 1 = -.5
    DiscountedNormalisedAdvantage(discount=0.5, eps=0): [-0.5, 1],
    DiscountedNormalisedAdvantage(discount=0.5, eps=0, pool=Pool.batch): [-0.5, 1],
    EndAlignedAdvantage(): [0, 0],
    GiGPOAdvantage(): [0, 0],
}


@pytest.mark.parametrize(("estimator", "row"), ALIKE.items(), ids=lambda x: type(x).__name__)
def test_all_trajectories_alike(scored, estimator: AdvantageEstimator, row: list[float]):
    groups = [scored([0, 1], [0, 1], outcomes=[1, 1]), scored([0, 1], [0, 1], outcomes=[1, 1], id="p1")]
    assert estimator(groups) == [[row, row], [row, row]]


def test_alike_but_a_state_comes_back(scored):
    # Reply 7 is answered at turns 2 and 3 with returns .5 and 1: mean .75, std .25. First turns and episodes agree.
    groups = [scored([0, 0, 1], [0, 0, 1], replies=[[7, 7], [7, 7]])]
    assert GiGPOAdvantage(discount=0.5, eps=0)(groups) == [[[0, -1, 1]] * 2]


ONE_TURN = {
    # 1, 0, 0, 0: mean .25, std .433013; .75 / .433013 = 1.732051, -.25 / .433013 = -.577350
    TurnReturnAdvantage(eps=0): (1.732051, -0.577350),
    TurnReturnAdvantage(eps=0, pool=Pool.turn_index): (1.732051, -0.577350),
    TurnReturnAdvantage(eps=0, pool=Pool.first_turn): (1.732051, -0.577350),
    TurnReturnAdvantage(eps=0, pool=Pool.batch): (1.732051, -0.577350),
    GroupNormAdvantage(eps=0): (1.732051, -0.577350),
    RlooAdvantage(): (1, -1 / 3),  # .75 * 4 / 3
    ReinforcePPAdvantage(eps=0): (1.732051, -0.577350),
    ReinforcePPAdvantage(eps=0, group_baseline=True): (1.732051, -0.577350),
    MTGRPOAdvantage(eps=0): (1.732051, -0.577350),
    HybridTurnAdvantage(eps=0, outcome_weight=0.5): (2.598076, -0.866025),  # 1.5 times
    DiscountedNormalisedAdvantage(eps=0): (1.732051, -0.577350),
    DiscountedNormalisedAdvantage(eps=0, pool=Pool.batch): (1.732051, -0.577350),
    EndAlignedAdvantage(eps=0): (1.732051, -0.577350),
    GiGPOAdvantage(eps=0, step_weight=1): (3.464102, -1.154701),  # twice
}


@pytest.mark.parametrize(("estimator", "numbers"), ONE_TURN.items(), ids=lambda x: type(x).__name__)
def test_one_turn_each(scored, estimator: AdvantageEstimator, numbers: tuple[float, float]):
    right, wrong = numbers
    rows = estimator([scored([1], [0], [0], [0], outcomes=[1, 0, 0, 0])])[0]
    assert [number for row in rows for number in row] == pytest.approx([right, wrong, wrong, wrong], abs=1e-6)


def test_an_infrastructure_failure_is_as_if_never_sampled(scored, estimator: AdvantageEstimator):
    kept, other = ([-0.1, 1], [0, 0, 0], [0, -0.1]), scored([1], [0], [0, 0], outcomes=[1, 0, 0], id="p1")
    clean = estimator([scored(*kept, outcomes=[1, 0, 0]), other])
    failed = estimator([scored(kept[0], [5, 5], *kept[1:], outcomes=[1, 5, 0, 0], excluded=[1]), other])
    assert failed == [[clean[0][0], [0, 0], *clean[0][1:]], clean[1]]
    assert any(number for row in clean[0] for number in row)
