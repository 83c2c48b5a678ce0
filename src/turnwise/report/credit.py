"""Credit by turn: mean reward and advantage of the trajectories that were kept."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import fmean

from turnwise.report.curves import Curve, Series, turn_curve
from turnwise.tracker.bundle import Advantages, bundle_path, bundle_steps, iterate_groups
from turnwise.types import ScoredGroup


def credit_curves(run_dir: Path) -> list[Curve]:
    """Reward and advantage by turn in the first, the middle and the last step whose groups were kept.

    Of a bundle that breaks off, the means are over what it holds up to there.
    """
    kept = bundle_steps(run_dir)
    means_by_step = {}
    for step in sorted({kept[0], kept[len(kept) // 2], kept[-1]}) if kept else []:
        means = _TurnMeans()
        with suppress(ValueError):
            for scored, advantages in iterate_groups(bundle_path(run_dir, step)):
                means.add(scored, advantages)
        means_by_step[f"step {step}"] = means
    return _curves(means_by_step)


class _TurnMeans:
    """Values of many trajectories, gathered by name and turn."""

    def __init__(self) -> None:
        self._values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, scored: ScoredGroup, advantages: Advantages) -> None:
        rows = zip(scored.group.trajectories, scored.turn_rewards_GK, advantages, scored.correct_G, strict=True)
        for trajectory, rewards, row, is_correct in rows:
            if not trajectory.is_excluded:
                for turn, (reward, advantage) in enumerate(zip(rewards, row, strict=True), start=1):
                    self._values["reward"][turn].append(reward)
                    self._values["correct" if is_correct else "wrong"][turn].append(advantage)

    def of(self, name: str) -> Series:
        turns = sorted(self._values[name])
        return turns, [fmean(self._values[name][turn]) for turn in turns]


def _curves(means_by_step: Mapping[str, _TurnMeans]) -> list[Curve]:
    drawn = []
    for name, title, about in (
        ("reward", "Reward by turn", "Mean over the trajectories that have such a turn."),
        ("correct", "Advantage by turn, correct answers", "Mean over the trajectories that end right."),
        ("wrong", "Advantage by turn, wrong answers", "Mean over the trajectories that end wrong."),
    ):
        series = {step: means.of(name) for step, means in means_by_step.items() if means.of(name)[0]}
        if series:
            drawn.append(turn_curve(title, about, series))
    return drawn
