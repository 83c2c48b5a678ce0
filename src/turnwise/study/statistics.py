"""What a study shows: each arm's figures, its difference from the baseline, and how far the seeds carry a conclusion.

docs/STATISTICS.md says why each figure is computed as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from turnwise.study.estimates import (
    ALPHA,
    Estimate,
    Floats,
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

    @property
    def setting(self) -> str:
        """Its only setting; empty over several, or where the study has but one."""
        return "".join(self.settings) if len(self.settings) == 1 else ""

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
        raise ValueError(f"{study.root}: none of the {len(study.skipped)} runs can be used: {why}")
    settings = study.plan.settings
    (overall,) = _comparisons(study, metric, [settings])
    by_setting = _comparisons(study, metric, [(setting,) for setting in settings]) if len(settings) > 1 else ()
    return Findings(metric=metric, overall=overall, by_setting=by_setting, trends=_trends(study, metric))


def _comparisons(study: Study, metric: Metric, parts: Sequence[tuple[str, ...]]) -> tuple[Comparison, ...]:
    """One comparison for each part of the settings; their tests are corrected together."""
    plan = study.plan
    pairs = {
        (part, arm): strata
        for part in parts
        for arm in plan.arms
        if arm != plan.baseline and (strata := _paired(study, metric, part, arm))
    }
    p_values = [p_value([one.difference for one in strata]) for strata in pairs.values()]
    differences = {
        key: _difference(key[1], plan.baseline, strata, p, p_holm, len(pairs))
        for (key, strata), p, p_holm in zip(pairs.items(), p_values, holm(p_values), strict=True)
    }
    return tuple(
        Comparison(
            metric=metric,
            settings=part,
            baseline=plan.baseline,
            arms=tuple(found for arm in plan.arms if (found := _arm_figures(study, metric, part, arm)) is not None),
            differences=tuple(differences[part, arm] for arm in plan.arms if (part, arm) in differences),
        )
        for part in parts
    )


def _arm_figures(study: Study, metric: Metric, settings: Sequence[str], arm: str) -> ArmFigures | None:
    """None unless the arm has a run in every setting: a mean over fewer of them is another figure."""
    found = [study.of(arm, setting) for setting in settings]
    if not all(found):
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


@dataclass(frozen=True, kw_only=True)
class _Stratum:
    """The pairs of one setting: seeds, figures of the arm and of the baseline."""

    seeds: tuple[int, ...]
    arm: Floats
    baseline: Floats

    @property
    def difference(self) -> Floats:
        return self.arm - self.baseline


def _paired(study: Study, metric: Metric, settings: Sequence[str], arm: str) -> list[_Stratum]:
    """The arm's pairs with the baseline, setting by setting; empty unless every setting has one."""
    found = [study.pairs(arm, study.plan.baseline, setting) for setting in settings]
    if not all(found):
        return []
    return [
        _Stratum(
            seeds=tuple(run.seed for run, _ in pairs),
            arm=np.array([metric.of(run) for run, _ in pairs]),
            baseline=np.array([metric.of(other) for _, other in pairs]),
        )
        for pairs in found
    ]


def _difference(
    arm: str, baseline: str, strata: Sequence[_Stratum], p: float, p_holm: float, num_comparisons: int
) -> Difference:
    differences = [one.difference for one in strata]
    values = np.concatenate(differences)
    return Difference(
        arm=arm,
        baseline=baseline,
        seeds=tuple(seed for one in strata for seed in one.seeds),
        values=tuple(values.tolist()),
        mean=estimate(differences, mean_of_settings),
        improvement=probability_of_improvement([one.arm for one in strata], [one.baseline for one in strata]),
        p_value=p,
        p_holm=p_holm,
        smallest_p=smallest_p(len(values), num_comparisons),
        seeds_needed=seeds_needed(differences, num_comparisons),
        detectable=detectable(differences, num_comparisons),
    )


def _trends(study: Study, metric: Metric) -> tuple[Trend, ...]:
    plan = study.plan
    try:
        axis = np.array([float(setting) for setting in plan.settings])
    except ValueError:
        return ()
    if len(axis) < 2:
        return ()
    slopes: dict[str, tuple[tuple[int, ...], Floats]] = {}
    for arm in plan.arms:
        strata = _paired(study, metric, plan.settings, arm)
        complete = [seed for seed in plan.seeds if sum(seed in one.seeds for one in strata) == len(axis)]
        if arm != plan.baseline and complete:
            rows = [[one.difference[one.seeds.index(seed)] for seed in complete] for one in strata]
            slopes[arm] = (tuple(complete), np.polyfit(axis, np.array(rows), 1)[0])
    p_values = [p_value([slope]) for _, slope in slopes.values()]
    return tuple(
        Trend(
            arm=arm,
            baseline=plan.baseline,
            seeds=seeds,
            slope=estimate([slope], mean_of_settings),
            p_value=p,
            p_holm=p_holm,
        )
        for (arm, (seeds, slope)), p, p_holm in zip(slopes.items(), p_values, holm(p_values), strict=True)
    )
