"""What a study shows: each arm's figures, its difference from the baseline, and how far the seeds carry a conclusion.

docs/STATISTICS.md says why each figure is computed as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from turnwise.study.estimates import (
    ALPHA,
    Estimate,
    detectable,
    estimate,
    holm,
    interquartile_mean,
    mean_of_settings,
    p_value,
    probability_of_improvement,
    seeds_needed,
    smallest_p,
)
from turnwise.study.runs import Run, Study


class Metric(StrEnum):
    """The figure of a run that arms are compared by: held-out accuracy at the end, or mean training accuracy."""

    final = "final"
    area = "area"

    def of(self, run: Run) -> float:
        """The figure of one run, an accuracy in [0, 1]."""
        return float(getattr(run, self.value))


class Standing(StrEnum):
    """Where an arm stands against the baseline, as far as the seeds carry it."""

    above = "above"
    unclear = "unclear"
    below = "below"


@dataclass(frozen=True, kw_only=True)
class ArmFigures:
    """One arm: a value for each finished run, and what they come to. Accuracies in [0, 1]."""

    arm: str
    num_planned: int
    """Runs that the study meant to have; those beyond `values` are missing."""
    seeds: tuple[int, ...]
    """The seed of each value; in a comparison over several settings a seed comes once for each."""
    values: tuple[float, ...]
    mean: float
    iqm: Estimate
    """Interquartile mean: of the middle half of the values."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One arm against the baseline, run by run with the same seed. Differences of accuracies: 0.02 is two points."""

    arm: str
    baseline: str
    seeds: tuple[int, ...]
    """The seed of each pair."""
    values: tuple[float, ...]
    """Arm minus baseline, pair by pair."""
    mean: Estimate
    improvement: Estimate
    """Probability that a run of the arm is above a run of the baseline, ties counting half."""
    p_value: float
    """Exact paired permutation test, two-sided."""
    p_holm: float
    """The same, corrected for the number of comparisons."""
    smallest_p: float
    """The smallest `p_holm` that this number of pairs and comparisons can give: above 0.05, nothing can be shown."""
    seeds_needed: int | None
    """Seeds that would show a difference as large as this one; `MAX_SEEDS` + 1: more; None: not known."""
    detectable: float | None
    """The difference that these seeds would probably have shown, given their spread; None: not known, or none."""

    @property
    def num_pairs(self) -> int:
        """Pairs of runs with the same seed (and setting)."""
        return len(self.values)

    @property
    def is_distinguishable(self) -> bool:
        """Whether both the interval and the corrected test set the arm apart from the baseline."""
        return self.p_holm <= ALPHA and self.mean.excludes_zero

    @property
    def standing(self) -> Standing:
        """Above or below the baseline only where it is distinguishable."""
        if not self.is_distinguishable:
            return Standing.unclear
        return Standing.above if self.mean.value > 0 else Standing.below


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every arm in one setting, or over several, by one metric."""

    metric: Metric
    settings: tuple[str, ...]
    """The settings that it is over; an empty name where the study has but one."""
    baseline: str
    arms: tuple[ArmFigures, ...]
    """Arms with a finished run, in the plan's order."""
    differences: tuple[Difference, ...]
    """Arms that share a seed with the baseline, in the plan's order."""

    def tier(self, standing: Standing) -> list[str]:
        """Arms of that standing; the baseline is nowhere. Arms of one tier are not ordered among themselves."""
        return [difference.arm for difference in self.differences if difference.standing is standing]


@dataclass(frozen=True, kw_only=True)
class Trend:
    """How an arm's difference from the baseline changes along the study's axis."""

    arm: str
    baseline: str
    seeds: tuple[int, ...]
    """Seeds that have a pair in every setting."""
    slope: Estimate
    """Least squares slope of the difference for each seed, averaged: accuracy per unit of the axis."""
    p_value: float
    p_holm: float

    @property
    def is_distinguishable(self) -> bool:
        """Whether both the interval and the corrected test set the slope apart from zero."""
        return self.p_holm <= ALPHA and self.slope.excludes_zero


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a study says by one metric. Holm corrects `overall`, all of `by_setting`, and `trends`, each apart."""

    metric: Metric
    overall: Comparison
    by_setting: tuple[Comparison, ...]
    """One comparison a setting; empty where the study has but one, which is then `overall`."""
    trends: tuple[Trend, ...]
    """Empty unless the settings are numbers."""


def compare(study: Study, metric: Metric) -> Findings:
    """Compares every arm with the plan's baseline.

    Raises:
        ValueError: No run is finished; the message says why.
    """
    if not study.runs:
        why = "; ".join(sorted({one.why for one in study.skipped}))
        raise ValueError(f"{study.root} holds no finished run of {len(study.skipped)}: {why}")
    settings = study.plan.settings
    apart = [_comparison(study, metric, (setting,)) for setting in settings] if len(settings) > 1 else []
    return Findings(
        metric=metric,
        overall=_corrected([_comparison(study, metric, settings)])[0],
        by_setting=_corrected(apart),
        trends=_trends(study, metric),
    )


def _comparison(study: Study, metric: Metric, settings: tuple[str, ...]) -> Comparison:
    """One comparison, its p-values as they are; `_corrected` completes it."""
    plan = study.plan
    arms = [_arm_figures(study, metric, settings, arm) for arm in plan.arms]
    differences = [_difference(study, metric, settings, arm) for arm in plan.arms if arm != plan.baseline]
    return Comparison(
        metric=metric,
        settings=settings,
        baseline=plan.baseline,
        arms=tuple(one for one in arms if one is not None),
        differences=tuple(one for one in differences if one is not None),
    )


def _arm_figures(study: Study, metric: Metric, settings: Sequence[str], arm: str) -> ArmFigures | None:
    found = [runs for setting in settings if (runs := study.of(arm, setting))]
    if not found:
        return None
    strata = [np.array([metric.of(run) for run in runs]) for runs in found]
    return ArmFigures(
        arm=arm,
        num_planned=len(study.plan.seeds) * len(settings),
        seeds=tuple(run.seed for runs in found for run in runs),
        values=tuple(np.concatenate(strata).tolist()),
        mean=float(mean_of_settings(*strata)),
        iqm=estimate(strata, interquartile_mean),
    )


def _difference(study: Study, metric: Metric, settings: Sequence[str], arm: str) -> Difference | None:
    baseline = study.plan.baseline
    found = [pairs for setting in settings if (pairs := study.pairs(arm, baseline, setting))]
    if not found:
        return None
    own, theirs = ([np.array([metric.of(pair[side]) for pair in pairs]) for pairs in found] for side in (0, 1))
    strata = [mine - other for mine, other in zip(own, theirs, strict=True)]
    return Difference(
        arm=arm,
        baseline=baseline,
        seeds=tuple(run.seed for pairs in found for run, _ in pairs),
        values=tuple(np.concatenate(strata).tolist()),
        mean=estimate(strata, mean_of_settings),
        improvement=probability_of_improvement(own, theirs),
        p_value=p_value(strata),
        p_holm=1.0,
        smallest_p=1.0,
        seeds_needed=None,
        detectable=None,
    )


def _corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The same with everything that depends on how many comparisons are made."""
    differences = [difference for comparison in comparisons for difference in comparison.differences]
    count = len(differences)
    complete = iter(
        replace(
            difference,
            p_holm=p_holm,
            smallest_p=smallest_p(difference.num_pairs, count),
            seeds_needed=seeds_needed(np.array(difference.values), count),
            detectable=detectable(np.array(difference.values), count),
        )
        for difference, p_holm in zip(differences, holm([one.p_value for one in differences]), strict=True)
    )
    return tuple(
        replace(comparison, differences=tuple(next(complete) for _ in comparison.differences))
        for comparison in comparisons
    )


def _trends(study: Study, metric: Metric) -> tuple[Trend, ...]:
    plan = study.plan
    try:
        axis = np.array([float(setting) for setting in plan.settings])
    except ValueError:
        return ()
    if len(axis) < 2:
        return ()
    trends: list[Trend] = []
    for arm in plan.arms:
        by_setting = [
            {run.seed: metric.of(run) - metric.of(other) for run, other in study.pairs(arm, plan.baseline, setting)}
            for setting in plan.settings
        ]
        seeds = [seed for seed in plan.seeds if all(seed in pairs for pairs in by_setting)]
        if arm == plan.baseline or not seeds:
            continue
        slopes = np.polyfit(axis, np.array([[pairs[seed] for seed in seeds] for pairs in by_setting]), 1)[0]
        trends.append(
            Trend(
                arm=arm,
                baseline=plan.baseline,
                seeds=tuple(seeds),
                slope=estimate([slopes], mean_of_settings),
                p_value=p_value([slopes]),
                p_holm=1.0,
            )
        )
    corrected = holm([trend.p_value for trend in trends])
    return tuple(replace(trend, p_holm=p) for trend, p in zip(trends, corrected, strict=True))
