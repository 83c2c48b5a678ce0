import re

import pytest

from synthetic_study import synthetic_study
from turnwise.study.drawing.lines import Lines
from turnwise.study.drawing.render import LIGHT
from turnwise.study.drawing.rows import Map, Rows
from turnwise.study.figures import axis_places, study_figures, write_figures
from turnwise.study.statistics import Metric, compare

ARMS = ("gtpo", "no_discount", "pool_turn_index")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three arms that span a corner of discount x pool, over two horizons."""
    return synthetic_study(tmp_path_factory.mktemp("study"), arms=ARMS, num_seeds=5, settings=["2", "8"])


@pytest.fixture(scope="module")
def findings(study):
    return {metric: compare(study, metric) for metric in Metric}


@pytest.fixture(scope="module")
def figures(study, findings):
    found = study_figures(study, findings)
    assert found.left_out == {}
    return {figure.name: figure for figure in found.drawn}


def test_every_figure_is_drawn_where_the_numbers_are_there(figures):
    by_setting = [f"{name}_horizon{value}" for name in ("credit", "tool_use", "signal", "time") for value in "28"]
    whole = ["final_accuracy", "effects", "across", "discount", "discount_and_pool", "training_accuracy"]
    assert sorted(figures) == sorted(whole + by_setting)


def test_effects_are_the_paired_differences_in_points(study, findings, figures):
    panel = figures["effects"].panels[0]
    assert isinstance(panel, Rows)
    assert list(panel.rows) == ["no_discount", "pool_turn_index"]
    (point,) = panel.rows["no_discount"].values()
    by_setting = [study.pairs("no_discount", "gtpo", setting) for setting in "28"]
    gains = [[100 * (run.final - other.final) for run, other in pairs] for pairs in by_setting]
    assert point.seeds == pytest.approx([(low + high) / 2 for low, high in zip(*gains, strict=True)])  # seed by seed
    assert point.value == pytest.approx(sum(point.seeds) / 5)
    assert point.low == pytest.approx(100 * findings[Metric.final].overall.differences[0].mean.low)


def test_the_axis_of_the_study_bears_accuracy_and_effect(study, figures):
    accuracy, effect = figures["across"].panels
    assert isinstance(accuracy, Lines)
    assert isinstance(effect, Lines)
    assert [point.x for point in accuracy.lines["gtpo"]] == [2.0, 8.0]
    assert list(effect.lines) == ["no_discount", "pool_turn_index"]
    gains = [100 * (run.final - other.final) for run, other in study.pairs("no_discount", "gtpo", "8")]
    assert effect.lines["no_discount"][1].value == pytest.approx(sum(gains) / 5)


def test_the_sweep_goes_over_gamma(figures):
    first, second = figures["discount"].panels
    assert isinstance(first, Lines)
    assert isinstance(second, Lines)
    assert {arm: points[0].x for arm, points in first.lines.items()} == {"gtpo": 0.9, "no_discount": 1.0}
    assert (first.limits, first.title, second.title) == (second.limits, "task.horizon 2", "task.horizon 8")


def test_the_map_has_a_cell_for_each_pair_of_discount_and_pool(figures):
    first, second = figures["discount_and_pool"].panels
    assert isinstance(first, Map)
    assert isinstance(second, Map)
    assert {place: arm for place, (arm, _) in first.cells.items()} == {
        ("0.9", "group"): "gtpo",
        ("1", "group"): "no_discount",
        ("0.9", "turn_index"): "pool_turn_index",
    }
    assert first.bounds == second.bounds


def test_files_are_sharp_and_equal_figures_give_equal_files(study, figures):
    chosen = [figures["effects"]]
    paths = write_figures(study, chosen)
    assert [path.name for path in paths] == ["effects.png", "effects.svg"]
    assert {path.parent for path in paths} == {study.root / "figures"}
    width = int.from_bytes(paths[0].read_bytes()[16:20])
    assert width == 1440  # 7.2 inches at 200 dots
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_figures(study, chosen)] == first


def test_every_arm_has_one_colour_in_every_figure(study, figures):
    for path in write_figures(study, [figures["across"], figures["credit_horizon2"]])[1::2]:
        drawn = re.findall(r'<g id="arm-1">\s*<path [^>]*stroke: (#[0-9a-f]{6})', path.read_text())
        assert set(drawn) == {LIGHT[1]}


def test_what_cannot_be_drawn_is_named_with_what_it_needs(tmp_path):
    study = synthetic_study(tmp_path, arms=["gtpo"], num_seeds=1, num_steps=2)
    for run in study.runs:
        for line in run.lines:
            for name in [name for name in line if name.startswith("time/")]:
                del line[name]  # type: ignore[attr-defined]
    found = study_figures(study, {metric: compare(study, metric) for metric in Metric})
    assert found.left_out == {
        "Effect of each arm": "an arm that shares a seed with the baseline",
        "Across settings": "a study that goes across settings",
        "Discount": "arms that differ from one another in advantage.discount alone",
        "Discount and pool": "arms that vary advantage.discount and advantage.pool and nothing else",
        "Time of a step": "figures time/step_s, time/rollout_s and time/tool_s",
    }
    assert "final_accuracy" in {figure.name for figure in found.drawn}


@pytest.mark.parametrize(("num_seeds", "has_intervals"), [(4, False), (5, True)])
def test_captions_promise_the_intervals_that_are_drawn(tmp_path, num_seeds, has_intervals):
    study = synthetic_study(tmp_path, arms=ARMS, num_seeds=num_seeds, settings=["2", "8"], num_steps=2)
    drawn = study_figures(study, {metric: compare(study, metric) for metric in Metric}).drawn
    abouts = {
        figure.name: figure.about for figure in drawn if figure.title not in ("Time of a step", "Discount and pool")
    }
    assert len(abouts) == 11
    with_interval = {
        name for name, about in abouts.items() if re.search(r" with its 95% (bootstrap )?interval[.;]", about)
    }
    without = {
        name for name, about in abouts.items() if "(no interval: that takes 5 seeds or more that differ)" in about
    }
    assert (with_interval, without) == ((set(abouts), set()) if has_intervals else (set(), set(abouts)))


def test_settings_that_are_no_numbers_stand_evenly():
    assert axis_places(["2", "4", "8"]) == {"2": 2.0, "4": 4.0, "8": 8.0}
    assert axis_places(["short", "4", "long"]) == {"short": 0.0, "4": 1.0, "long": 2.0}
