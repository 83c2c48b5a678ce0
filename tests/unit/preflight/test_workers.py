"""Reward and grader elsewhere: those of a run pass, and what works in this process's main thread alone is found."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from broken_rewards import AlarmReward, KindGrader, SlowReward, ThreadReward, UnpicklableGrader
from builders import problem
from forks import forking
from turnwise.preflight import workers
from turnwise.preflight.finding import Finding, Verdict
from turnwise.preflight.workers import check_workers, made_group
from turnwise.reward.grading import Grader
from turnwise.reward.information_gain import InformationGainReward
from turnwise.reward.outcome import OutcomeReward
from turnwise.reward.turn_level import TurnLevelReward


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process in which they are tried is a fork, and need not import torch anew."""
    with forking() as context:
        monkeypatch.setattr(workers, "multiprocessing", SimpleNamespace(get_context=lambda _: context))
        yield


def found(reward: Any, grader: Any = None, **settings: float) -> Finding:
    finding = Finding("workers")
    check_workers(reward, grader or Grader(), made_group(problem()), finding, **settings)
    return finding


def test_a_reward_of_a_run_passes():
    finding = found(OutcomeReward())
    assert finding.verdict is Verdict.passed, finding.lines


@pytest.mark.parametrize("reward", [TurnLevelReward(shaping=True), InformationGainReward()])
@pytest.mark.usefixtures("forked")
def test_others_pass_too(reward: Any):
    finding = found(reward)
    assert finding.verdict is Verdict.passed, finding.lines


@pytest.mark.usefixtures("forked")
def test_a_reward_with_an_alarm_fails_in_a_thread():
    finding = found(AlarmReward())
    assert finding.verdict is Verdict.failed
    assert "in a thread reward or grader fail: ValueError: signal only works in main thread" in finding.lines[0]
    assert "no signals or alarms" in finding.remedies[0]


@pytest.mark.usefixtures("forked")
def test_a_reward_that_differs_in_a_thread():
    finding = found(ThreadReward())
    assert finding.verdict is Verdict.failed
    assert "in a thread they give (((0.0, 0.0)" in finding.lines[0]


@pytest.mark.usefixtures("forked")
def test_a_reward_that_hangs_in_a_thread():
    finding = found(SlowReward(), max_wait_s=2)
    assert finding.verdict is Verdict.failed
    assert "in a thread reward or grader fail: TimeoutError: no result within 2 seconds" in finding.lines[0]


def test_a_grader_that_cannot_be_sent_to_a_process():
    finding = found(OutcomeReward(), UnpicklableGrader())
    assert finding.verdict is Verdict.failed
    assert "in a process reward or grader fail" in finding.lines[0]
    assert "pickl" in finding.remedies[0]


@pytest.mark.usefixtures("forked")
def test_a_grader_that_takes_everything_for_right():
    finding = found(OutcomeReward(), KindGrader())
    assert finding.verdict is Verdict.failed
    assert "the grader says True" in finding.lines[0]
    assert "True against" in finding.lines[0]


def test_a_reward_that_fails_everywhere():
    group = made_group(problem())
    finding = Finding("workers")
    check_workers(lambda _: 1 / 0, Grader(), group, finding)  # type: ignore[arg-type, return-value]
    assert finding.verdict is Verdict.failed
    assert "fails on a made-up group: ZeroDivisionError" in finding.lines[0]
