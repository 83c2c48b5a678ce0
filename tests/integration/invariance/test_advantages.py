"""Advantages of every estimator that a configuration can name depend on the trajectories, not on their order.

Tolerance: sums in another order, 1e-9 in float64.
"""

from typing import Any

import pytest
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st

from ragged_steps import STEPS, selected
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.config.schema import COMPONENTS
from turnwise.core.group_statistics import Pool
from turnwise.types import ScoredGroup

ESTIMATORS: list[Any] = [get_class(target)() for key, target in COMPONENTS.items() if key.startswith("advantage/")]
ESTIMATORS += [TurnReturnAdvantage(pool=pool, leave_one_out=True, weight_by_trajectory=True) for pool in Pool]
EXAMPLES = settings(max_examples=25, deadline=None)


def close(one: list[list[list[float]]], other: list[list[list[float]]]) -> bool:
    return one == [[pytest.approx(row, abs=1e-9) for row in rows] for rows in other]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'pool', '')}")
class TestEveryEstimator:
    @EXAMPLES
    @given(groups=STEPS, random=st.randoms(use_true_random=False))
    def test_permuting_siblings_permutes_advantages(self, estimator: Any, groups: list[ScoredGroup], random: Any):
        orders = [random.sample(range(len(scored.correct_G)), len(scored.correct_G)) for scored in groups]
        shuffled = [selected(scored, order) for scored, order in zip(groups, orders, strict=True)]
        permuted = [[rows[g] for g in order] for rows, order in zip(estimator(groups), orders, strict=True)]
        assert close(estimator(shuffled), permuted)

    @EXAMPLES
    @given(groups=STEPS, random=st.randoms(use_true_random=False))
    def test_permuting_groups_permutes_advantages(self, estimator: Any, groups: list[ScoredGroup], random: Any):
        order = random.sample(range(len(groups)), len(groups))
        advantages = estimator(groups)
        assert close(estimator([groups[p] for p in order]), [advantages[p] for p in order])

    @EXAMPLES
    @given(groups=STEPS)
    def test_excluded_trajectories_change_nothing(self, estimator: Any, groups: list[ScoredGroup]):
        kept = [[g for g, t in enumerate(scored.group.trajectories) if not t.is_excluded] for scored in groups]
        advantages = estimator(groups)
        alone = estimator([selected(scored, order) for scored, order in zip(groups, kept, strict=True)])
        assert alone == [[rows[g] for g in order] for rows, order in zip(advantages, kept, strict=True)]
        for rows, order in zip(advantages, kept, strict=True):
            assert not any(a for g, row in enumerate(rows) if g not in order for a in row)
