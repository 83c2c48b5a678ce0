"""Monitors over made-up courses of figures: when they speak, what they say, and that they remember nothing else."""

import math
from typing import Any

import pytest

from turnwise.health import FIGURES, Collapsed, Health
from turnwise.health_settings import Action, HealthSettings, Monitor, WatchdogSettings
from turnwise.tracker.health import Alarm

QUIET = {name: Monitor(action=Action.off) for name in FIGURES}


def settings(**given: Any) -> HealthSettings:
    """Only the given monitors."""
    return HealthSettings(**{**QUIET, **given})


def spoken(monitor: Monitor, values: list[float], figure: str = "entropy", **more: Any) -> list[Alarm]:
    """The alarms about one figure that takes these values step by step, until one of them ends the run."""
    told: list[Alarm] = []
    health = Health(settings(**{figure: monitor}, **more), tell=told.append)
    for step, value in enumerate(values):
        try:
            health({FIGURES[figure]: value}, step)
        except Collapsed as collapsed:
            return told if collapsed.alarm in told else [*told, collapsed.alarm]
    return told


def test_a_warning_comes_after_so_many_steps_in_a_row_and_once():
    (alarm,) = spoken(Monitor(min=0.1, patience=3), [1, 0.05, 0.05, 1, 0.05, 0.04, 0.03, 0.02, 0.01])
    assert (alarm.step, alarm.since, alarm.value, alarm.action) == (6, 4, 0.03, "warn")
    assert alarm.words == "entropy: loss/entropy is 0.03 in step 6, counted from 0, as since step 4 (min=0.1)"


def test_it_speaks_again_after_all_was_well():
    alarms = spoken(Monitor(max=1.0, patience=1), [2, 2, 0.5, 3])
    assert [(one.step, one.value) for one in alarms] == [(0, 2), (3, 3)]


@pytest.mark.parametrize("action", [Action.stop, Action.roll_back])
def test_what_is_more_than_a_warning_ends_the_loop(action: Action):
    told: list[Alarm] = []
    health = Health(settings(tool_use=Monitor(min=0.2, patience=2, action=action)), tell=told.append)
    health({"rollout/tool_use": 0.1}, 5)
    with pytest.raises(Collapsed, match=r"health\.tool_use: rollout/tool_use is 0 in step 6, .*since step 5") as met:
        health({"rollout/tool_use": 0.0}, 6)
    assert (met.value.alarm.action, met.value.alarm.since) == (action.value, 5)
    assert told == ([met.value.alarm] if action is Action.stop else []), "a way back is told of where it leads"


def test_whoever_goes_on_after_a_stop_is_stopped_again_by_the_next_step():
    past = [{"step": step, "loss/entropy": 0.0} for step in range(4)]
    health = Health(settings(entropy=Monitor(min=0.1, patience=2, action=Action.stop)), past)
    with pytest.raises(Collapsed, match="as since step 0"):
        health({"loss/entropy": 0.0}, 4)


def test_to_stop_goes_before_going_back():
    both = settings(
        entropy=Monitor(min=0.1, patience=1, action=Action.roll_back),
        grad_norm=Monitor(max=1.0, patience=1, action=Action.stop),
    )
    with pytest.raises(Collapsed, match="grad_norm"):
        Health(both)({"loss/entropy": 0.0, "loss/grad_norm": 2.0}, 0)


def test_ratios_refer_to_the_median_of_the_first_steps_and_wait_for_them():
    (alarm,) = spoken(Monitor(max_ratio=10.0, patience=1), [1, 90, 2, 3, 2.5, 24, 26], "grad_norm", baseline_steps=5)
    assert (alarm.step, alarm.bound) == (6, "max_ratio=10 of 2.5, the median of the first steps")
    (alarm,) = spoken(Monitor(min_ratio=0.5, patience=1), [10, 10, 6, 4], "length", baseline_steps=2)
    assert (alarm.step, alarm.bound) == (3, "min_ratio=0.5 of 10, the median of the first steps")


def test_a_beginning_of_zero_has_no_multiples():
    assert spoken(Monitor(max_ratio=2.0, patience=1), [0, 0, 5], "grad_norm", baseline_steps=2) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_not_finite_is_out_of_bounds(value: Any):
    (alarm,) = spoken(Monitor(max=1.0, patience=1), [0.5, value])
    assert alarm.value is None
    assert alarm.words == "entropy: loss/entropy is not finite in step 1, counted from 0 (expected a finite number)"


def test_a_figure_that_is_absent_is_not_looked_at():
    health = Health(settings(reference_kl=Monitor(max=0.0, patience=2, action=Action.stop)))
    health({"loss/kl": 1.0}, 0)
    health({"loss/entropy": 1.0}, 1)
    with pytest.raises(Collapsed, match="as since step 0"):
        health({"loss/kl": 1.0}, 2)


def test_a_run_that_goes_on_speaks_where_the_whole_run_would():
    course = [1.0, 1.1, 0.9, 1.0, 5.0, 5.0, 5.0, 1.0]
    monitor = Monitor(max_ratio=2.0, patience=3)
    (whole,) = spoken(monitor, course, baseline_steps=4)
    assert whole.step == 6
    for cut in range(len(course)):
        told: list[Alarm] = []
        past = [{"step": step, "loss/entropy": value} for step, value in enumerate(course[:cut])]
        health = Health(settings(entropy=monitor, baseline_steps=4), past, told.append)
        for step in range(cut, len(course)):
            health({"loss/entropy": course[step]}, step)
        assert told == [whole][: cut <= 6], cut


def test_the_defaults_say_nothing_of_figures_as_they_are_in_a_good_run():
    told: list[Alarm] = []
    health = Health(HealthSettings(), tell=told.append)
    for step in range(40):
        fade = 1 - step / 50
        health(
            {
                "loss/entropy": 0.3 * fade,
                "loss/grad_norm": 0.2 + 0.5 * (step % 3),
                "rollout/num_sampled_tokens": 60 * fade + 20,
                "rollout/repetition": 0.1,
                "rollout/tool_use": 0.8,
                "mismatch/kl": 1e-4,
            },
            step,
        )
    assert told == []


def test_each_monitor_has_a_figure_and_each_figure_a_monitor():
    assert {name for name, _ in HealthSettings().monitors()} == set(FIGURES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"patience": 0}, "patience=0: expected >= 1"),
        ({"min": math.nan}, "min=nan: expected a finite number or null"),
        ({"min": 2.0, "max": 1.0}, "min=2 max=1: expected min <= max"),
        ({"min_ratio": -0.5}, "min_ratio=-0.5: expected >= 0"),
    ],
)
def test_a_bound_out_of_range_is_named(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        Monitor(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"baseline_steps": 0}, r"health\.baseline_steps=0: expected >= 1"),
        ({"max_roll_backs": 0}, r"health\.max_roll_backs=0: expected >= 1"),
        ({"learning_rate_factor": 0.0}, r"health\.learning_rate_factor=0\.0: expected in \(0, 1\]"),
        ({"not_finite": Action.warn}, r"health\.not_finite=warn: no step can be taken, expected stop or roll_back"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_key(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        HealthSettings(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"timeout_s": -1.0}, "timeout_s=-1.0: expected a finite number >= 0"),
        ({"grace_s": math.inf}, "grace_s=inf: expected a finite number >= 0"),
        ({"action": Action.roll_back}, "action=roll_back: what is stuck cannot be trained again"),
    ],
)
def test_a_setting_of_the_watchdog_out_of_range_is_named(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        WatchdogSettings(**given)
