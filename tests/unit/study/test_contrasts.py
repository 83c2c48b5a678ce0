from pathlib import Path

from synthetic_study import synthetic_study
from turnwise.study.contrasts import differing_options, discount_pool_grids, discount_sweeps
from turnwise.study.runs import Study


def study(root: Path, *arms: str) -> Study:
    return synthetic_study(root, arms=arms, num_seeds=1, num_steps=2)


def test_what_differs_is_named_by_key_and_the_seed_is_not_among_it(tmp_path):
    found = differing_options(study(tmp_path, "gtpo", "no_discount", "no_shaping"))
    assert found == {
        "reward.shaping": {"gtpo": True, "no_discount": True, "no_shaping": False},
        "advantage.discount": {"gtpo": 0.9, "no_discount": 1.0, "no_shaping": 0.9},
    }


def test_an_option_that_an_arm_does_not_have_differs(tmp_path):
    found = differing_options(study(tmp_path, "gtpo", "grpo"))
    assert found["advantage.discount"] == {"gtpo": 0.9}
    assert set(found) == {"advantage._target_", "advantage.discount", "advantage.pool"}


def test_the_axis_of_the_study_is_no_difference(tmp_path):
    assert differing_options(synthetic_study(tmp_path, arms=["gtpo"], num_seeds=1, settings=["2", "4"])) == {}


def test_sweeps_hold_arms_that_differ_in_gamma_alone_in_its_order(tmp_path):
    arms = ("no_discount", "gtpo", "grpo", "no_shaping", "gamma_0_5", "pool_turn_index")
    (sweep,) = discount_sweeps(study(tmp_path, *arms))
    assert list(sweep.items()) == [("gamma_0_5", 0.5), ("gtpo", 0.9), ("no_discount", 1.0)]


def test_a_grid_needs_two_discounts_and_two_pools(tmp_path):
    assert discount_pool_grids(study(tmp_path / "row", "gtpo", "no_discount", "no_shaping")) == []
    (grid,) = discount_pool_grids(study(tmp_path / "corner", "gtpo", "no_discount", "pool_turn_index"))
    assert grid == {("0.9", "group"): "gtpo", ("1", "group"): "no_discount", ("0.9", "turn_index"): "pool_turn_index"}
