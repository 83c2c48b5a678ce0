import math
from dataclasses import replace

import pytest

from synthetic_study import synthetic_study
from turnwise.study import courses
from turnwise.study.courses import interval_words, mean_point, smoothed, smoothing_window
from turnwise.study.drawing.lines import Lines
from turnwise.study.drawing.rows import Bars, Rows


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two arms, five seeds, ten steps: lines are not smoothed."""
    return synthetic_study(tmp_path_factory.mktemp("study"), arms=["gtpo", "no_shaping"], num_seeds=5, num_steps=10)


def test_smoothing_is_a_moving_mean_over_what_there_is():
    # (1 + 2) / 2, (1 + 2 + 6) / 3, (2 + 6 + 7) / 3, (6 + 7) / 2
    assert smoothed([1.0, 2.0, 6.0, 7.0], 3) == [1.5, 3.0, 5.0, 6.5]
    assert smoothed([1.0, 2.0], 1) == [1.0, 2.0]


@pytest.mark.parametrize(("num_steps", "words"), [(10, "not smoothed"), (30, "over 3 steps"), (200, "over 21 steps")])
def test_smoothing_is_named(num_steps, words):
    assert words in smoothing_window(num_steps)


def test_the_interval_is_students_t():
    # mean 3, standard deviation sqrt(2.5), t of 4 degrees at 97.5% is 2.7764: 2.7764 * sqrt(2.5 / 5) = 1.9632
    point = mean_point([1.0, 2.0, 3.0, 4.0, 5.0], x=7.0)
    assert (point.x, point.value) == (7.0, 3.0)
    assert point.ends == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-4)


def test_few_seeds_have_no_interval():
    point = mean_point([1.0, 2.0])
    assert point.ends == (1.5, 1.5)
    assert math.isinf(point.low)


def test_captions_say_where_there_is_an_interval(study):
    bare, whole = mean_point([1.0, 2.0]), mean_point([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval_words([whole, whole]) == " with its 95% interval"
    assert interval_words([whole, bare]) == " with its 95% interval where there are 5 seeds or more that differ"
    assert interval_words([bare]) == " (no interval: that takes 5 seeds or more that differ)"
    late = replace(study, runs=tuple(run for run in study.runs if run.arm == "gtpo" or run.seed < 2))
    (figure,) = courses.training(late)
    assert "mean over seeds with its 95% interval where there are 5 seeds or more that differ. Lines" in figure.about


def test_figures_of_all_settings_have_one_caption(tmp_path):
    """A page shows it once, so it holds for all of them."""
    study = synthetic_study(tmp_path, arms=["no_shaping"], num_seeds=5, settings=["2", "8"], num_steps=2)
    study = replace(study, runs=tuple(run for run in study.runs if run.setting == "2" or run.seed < 2))
    for make in (courses.credit, courses.tools, courses.signal):
        first, second = make(study)
        assert first.about == second.about
        assert " with its 95% interval where there are 5 seeds or more that differ. " in first.about
    (first, _) = courses.signal(study)
    assert "Groups with an advantage thanks to shaping: none in any arm at task.horizon 2, 8." in first.about


def test_training_accuracy_is_the_mean_over_seeds_at_each_step(study):
    (figure,) = courses.training(study)
    (panel,) = figure.panels
    assert isinstance(panel, Lines)
    points = panel.lines["no_shaping"]
    assert [point.x for point in points] == list(range(10))
    fourth = [run.series("rollout/accuracy")[1][4] for run in study.of("no_shaping")]
    assert points[4].value == pytest.approx(sum(fourth) / 5)


def test_many_arms_stand_each_beside_the_baseline(study, monkeypatch):
    monkeypatch.setattr(courses, "MAX_NAMED", 1)
    (figure,) = courses.training(study)
    (panel,) = figure.panels
    assert isinstance(panel, Lines)
    assert (panel.title, list(panel.lines)) == ("no_shaping", ["gtpo", "no_shaping"])
    assert figure.has_legend


def test_credit_compares_the_first_fifth_of_the_steps_with_the_last(study):
    (figure,) = courses.credit(study)
    assert [panel.title for panel in figure.panels][:2] == ["Reward, steps 0 to 1", "Reward, steps 8 to 9"]
    early, late, *_ = figure.panels
    assert isinstance(early, Lines)
    assert isinstance(late, Lines)
    assert early.limits == late.limits
    rewards = [run.series("reward/turn_3")[1] for run in study.of("gtpo")]
    assert late.lines["gtpo"][2].value == pytest.approx(sum(one[8] + one[9] for one in rewards) / 10)


def test_the_parts_of_a_step_add_up_to_it(study):
    (figure,) = courses.time(study)
    (panel,) = figure.panels
    assert isinstance(panel, Bars)
    parts = panel.bars["gtpo"]
    assert sum(parts.values()) == pytest.approx(3.0)  # time/step_s
    assert parts["tools"] == pytest.approx(0.5)  # time/tool_s


def test_shaping_is_shown_beside_what_would_be_without_it(study):
    (figure,) = courses.signal(study)
    one_reward = figure.panels[1]
    assert isinstance(one_reward, Rows)
    shares = {arm: [point.value for point in points.values()] for arm, points in one_reward.rows.items()}
    assert shares["gtpo"][1] == pytest.approx(shares["gtpo"][0] / 2)  # as the study was made up
    assert shares["no_shaping"][1] == shares["no_shaping"][0]
