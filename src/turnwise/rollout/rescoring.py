"""Stored trajectories scored again: what another reward or estimator would have said, without a model."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from turnwise.advantage.ragged import flatten
from turnwise.core.correlation import rank_correlation
from turnwise.protocols import PGK, AdvantageEstimator, Reward
from turnwise.rollout.diagnostics import diagnose, has_signal, included, mean_by_turn, signs, turn_returns
from turnwise.tracker.bundle import bundle_path, read_groups, write_groups
from turnwise.types import ScoredGroup


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """The groups of a step with what one reward and one estimator say of them."""

    groups: list[ScoredGroup]
    returns: list[list[list[float]]]
    advantages: list[list[list[float]]]


def rescore(stored: Sequence[ScoredGroup], reward: Reward, estimator: AdvantageEstimator) -> Rescored:
    """Scores the stored groups of one step anew."""
    groups = [reward(scored.group) for scored in stored]
    return Rescored(groups=groups, returns=turn_returns(groups, estimator.discount), advantages=list(estimator(groups)))


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Stored and new numbers of turns, groups and trajectories, side by side; sums of steps by `joined`.

    K runs over the turns of included trajectories, S over the groups that have one, G over their trajectories.
    """

    stored_K: Tensor
    rescored_K: Tensor
    turn_index_K: Tensor
    had_signal_S: Tensor
    has_signal_S: Tensor
    is_regraded_G: Tensor

    def figures(self) -> dict[str, float]:
        """What changed, under `rescore/`:

        - `sign_flips`: share of the turns whose advantage has strictly the opposite sign; `sign_flips_turn_1`, ...: the
          same among first turns, and so on
        - `to_zero`, `from_zero`: shares of the turns whose advantage lost or gained a sign
        - `rank_correlation`: Spearman's, of stored with new advantages; NaN where one of the two does not vary
        - `abs_change`: mean absolute difference of the advantages; `abs_change_turn_1`, ...
        - `zero_groups_stored`, `zero_groups`: shares of the groups without any advantage, before and after
        - `regraded`: share of the trajectories whose answer was judged otherwise
        """
        stored, rescored = signs(self.stored_K), signs(self.rescored_K)
        by_turn = {
            "sign_flips": (stored * rescored < 0).double(),
            "abs_change": (self.stored_K - self.rescored_K).abs(),
        }
        figures = {name: _mean(values_K) for name, values_K in by_turn.items()}
        figures |= {
            "to_zero": _mean((stored != 0) & (rescored == 0)),
            "from_zero": _mean((stored == 0) & (rescored != 0)),
            "rank_correlation": rank_correlation(self.stored_K, self.rescored_K),
            "zero_groups_stored": _mean(~self.had_signal_S),
            "zero_groups": _mean(~self.has_signal_S),
            "regraded": _mean(self.is_regraded_G),
        }
        for name, values_K in by_turn.items():
            figures |= {f"{name}_{turn}": mean for turn, mean in mean_by_turn(values_K, self.turn_index_K).items()}
        return {f"rescore/{name}": figure for name, figure in figures.items()}


def compare(stored: Sequence[ScoredGroup], stored_advantages: PGK, rescored: Rescored) -> Changes:
    """Puts the stored numbers of one step beside the new ones."""
    turns = flatten(rescored.groups)
    stored_K = included(stored_advantages, stored)
    rescored_K = included(rescored.advantages, rescored.groups)
    regraded = [
        was != correct
        for before, after in zip(stored, rescored.groups, strict=True)
        for trajectory, was, correct in zip(after.group.trajectories, before.correct_G, after.correct_G, strict=True)
        if not trajectory.is_excluded
    ]
    return Changes(
        stored_K=stored_K,
        rescored_K=rescored_K,
        turn_index_K=turns.turn_index_K,
        had_signal_S=has_signal(stored_K, turns),
        has_signal_S=has_signal(rescored_K, turns),
        is_regraded_G=torch.tensor(regraded, dtype=torch.bool),
    )


@dataclass(frozen=True, kw_only=True)
class RescoredStep:
    """What changed in one step, and all its figures: those of `Changes` and of `diagnose`."""

    changes: Changes
    figures: dict[str, float]


def rescore_step(
    step: int, *, source: Path, reward: Reward, estimator: AdvantageEstimator, out: Path | None
) -> RescoredStep:
    """Reads the bundle of a step, scores it anew and compares.

    Args:
        step: Which one.
        source: The run's folder.
        reward: Scores each group.
        estimator: Gives the advantages.
        out: Folder that gets a bundle with the new numbers; None for none.

    Raises:
        ValueError: The bundle is torn or empty, or lacks something that the reward needs.
    """
    pairs = read_groups(bundle_path(source, step))
    if not pairs:
        raise ValueError(f"{bundle_path(source, step)} holds no group")
    stored, stored_advantages = [scored for scored, _ in pairs], [rows for _, rows in pairs]
    rescored = rescore(stored, reward, estimator)
    changes = compare(stored, stored_advantages, rescored)
    if out is not None:
        write_groups(bundle_path(out, step), rescored.groups, rescored.returns, rescored.advantages)
    diagnosed = diagnose(rescored.groups, rescored.returns, rescored.advantages, estimator)
    return RescoredStep(changes=changes, figures={**changes.figures(), **diagnosed})


def joined(changes: Sequence[Changes]) -> Changes:
    """The changes of several steps as those of one."""
    return Changes(
        **{
            name: torch.cat([getattr(one, name) for one in changes])
            for name in (field.name for field in fields(Changes))
        }
    )


def _mean(values_N: Tensor) -> float:
    return float(values_N.double().mean()) if values_N.numel() else 0.0
