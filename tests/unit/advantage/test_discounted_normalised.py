from typing import Any

import pytest

from turnwise.advantage.discounted_normalised import DiscountedNormalisedAdvantage
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.core.group_statistics import Pool, StdKind


def test_normalised_first_discounted_after(scored):
    # rewards 0, 1 and 0: mean 1/3, std .471405: -.707107, 1.414214 and -.707107; -.707107 + .5 * 1.414214 = 0
    first, second = DiscountedNormalisedAdvantage(discount=0.5, eps=0)([scored([0, 1], [0])])[0]
    assert first == pytest.approx([0, 1.414214], abs=1e-6)
    assert second == pytest.approx([-0.707107], abs=1e-6)


def test_a_longer_way_to_the_same_reward_costs_more(scored):
    # rewards 0, 0, 1 and 1: mean .5, std .5: -1, -1, 1 and 1; the short trajectory owes nothing for turns it lacks
    component = DiscountedNormalisedAdvantage(discount=1.0, eps=0)
    assert component([scored([0, 0, 1], [1])]) == [[[-1, 0, 1], [1]]]


def test_batch_pool(scored):
    # rewards 0, 1; 1, 1, 0: mean .6: -.6, .4; .4, .4, -.6; discount 1
    component = DiscountedNormalisedAdvantage(pool=Pool.batch, scale_by_std=False)
    groups = [scored([0, 1]), scored([1, 1, 0], id="p1")]
    first, second = component(groups)
    assert first == [pytest.approx([-0.2, 0.4])]
    assert second == [pytest.approx([0.2, -0.2, -0.6])]
    in_groups = DiscountedNormalisedAdvantage(scale_by_std=False)
    assert in_groups(groups) == [[[0, 0]], [[0, 0, 0]]], "neither group has siblings to compare"


@pytest.mark.parametrize("std_kind", list(StdKind))
@pytest.mark.parametrize("scale_by_std", [True, False])
def test_one_turn_is_grpo(scored, std_kind: StdKind, scale_by_std: bool):
    groups = [scored([1], [0], [-0.1]), scored([0.3], [1], id="p1")]
    ours = DiscountedNormalisedAdvantage(std_kind=std_kind, scale_by_std=scale_by_std)
    assert ours(groups) == GroupNormAdvantage(std_kind=std_kind, scale_by_std=scale_by_std)(groups)


def test_only_the_group_pool_compares_siblings():
    assert DiscountedNormalisedAdvantage().compares_siblings
    assert not DiscountedNormalisedAdvantage(pool=Pool.batch).compares_siblings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool": Pool.turn_index}, "pool=turn_index: expected one of group, batch"),
        ({"pool": Pool.first_turn}, "pool=first_turn: expected one of group, batch"),
        ({"pool": "everything"}, "pool=everything: expected one of group, batch"),
        ({"discount": -0.1}, "discount=-0.1: expected 0 to 1"),
        ({"eps": 1.0}, "eps=1.0: expected at least 0 and less than 1"),
    ],
)
def test_fields_out_of_range(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        DiscountedNormalisedAdvantage(**fields)
