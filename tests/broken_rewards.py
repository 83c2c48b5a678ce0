"""Rewards and graders that are wrong in one way each; at a place that a spawned process can import."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from turnwise.reward.grading import Grader
from turnwise.reward.outcome import OutcomeReward
from turnwise.types import Group, ScoredGroup
from turnwise.watchdog import WATCH, Work


@dataclass(frozen=True, kw_only=True)
class AlarmReward:
    """Bounds its own time by a signal, as only a main thread can."""

    def __call__(self, group: Group) -> ScoredGroup:
        previous = signal.signal(signal.SIGALRM, lambda *_: None)
        try:
            return OutcomeReward()(group)
        finally:
            signal.signal(signal.SIGALRM, previous)


@dataclass(frozen=True, kw_only=True)
class ThreadReward:
    """Gives another reward wherever it is not in the main thread."""

    def __call__(self, group: Group) -> ScoredGroup:
        scored = OutcomeReward()(group)
        if threading.current_thread() is threading.main_thread():
            return scored
        zeros = tuple((0.0,) * len(row) for row in scored.turn_rewards_GK)
        return ScoredGroup(group=group, turn_rewards_GK=zeros, terms={"none": zeros}, correct_G=scored.correct_G)


@dataclass(frozen=True, kw_only=True)
class SlowReward:
    """Hangs wherever it is not in the main thread."""

    def __call__(self, group: Group) -> ScoredGroup:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(60)
        return OutcomeReward()(group)


@dataclass(frozen=True, kw_only=True)
class UnpicklableGrader:
    """Holds what no other process can get."""

    compare: Callable[[str | None, str], bool] = field(
        default_factory=lambda: lambda answer, gold: "4" in (answer or "")
    )

    def __call__(self, answer: str | None, gold: str) -> bool:
        return self.compare(answer, gold) and "3" not in gold


@dataclass(frozen=True, kw_only=True)
class KindGrader:
    """Takes every answer for right."""

    def __call__(self, answer: str | None, gold: str) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class HangingGrader(Grader):
    """Hangs where trajectories are scored, for good; before that it grades."""

    def grade_all(self, pairs: Sequence[tuple[str | None, str]]) -> list[bool]:
        if Work.reward in WATCH.standing():
            time.sleep(3600)
        return super().grade_all(pairs)
