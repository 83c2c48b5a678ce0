"""What a study shows: each arm's figures, its difference from the baseline, and how far the seeds carry a conclusion.

docs/STATISTICS.md says why each figure is computed as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    """One arm: a value for each run that counts, and what they come to. Accuracies in [0, 1].

    A finished run counts; of several settings, only where its seed has one in each of them.
    """

    arm: str
    num_planned: int
    """Runs that the study meant to have; those beyond `values` are missing."""
    seeds: tuple[int, ...]
    """The seed of each value; in a comparison over several settings every seed comes once for each."""
    values: tuple[float, ...]
    mean: float
    iqm: Estimate
    """Interquartile mean: of the middle half of the values."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One arm against the baseline, seed by seed. Differences of accuracies: 0.02 is two points."""

    arm: str
    baseline: str
    seeds: tuple[int, ...]
    """The seeds that count: those that both arms have, in every setting."""
    values: tuple[float, ...]
    """Arm minus baseline for each seed, the mean over the settings."""
    num_left_out: int
    """Seeds that both arms have in some of the settings only."""
    mean: Estimate
    improvement: Estimate
    """Probability that a run of the arm is above a run of the baseline, ties counting half."""
    p_value: float
    """Exact paired permutation test, two-sided."""
    p_holm: float
    """The same, corrected for the number of comparisons."""
    smallest_p: float
    """The smallest `p_holm` that this number of seeds and comparisons can give: above 0.05, nothing can be shown."""
    seeds_needed: int | None
    """Seeds that would show a difference as large as this one, more than there are; `MAX_SEEDS` + 1 stands for all
    beyond. None: not known, or it is shown already."""
    detectable: float | None
    """The difference that these seeds would probably have shown, given their spread; None: not known, or none."""

    @property
    def num_pairs(self) -> int:
        """Pairs of arm and baseline, one for each seed."""
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
    found = {(part, arm): _pairs(study, metric, part, arm) for part in parts for arm in plan.arms}
    pairs = {key: one for key, one in found.items() if one.seeds and key[1] != plan.baseline}
    p_values = [p_value(one.differences) for one in pairs.values()]
    differences = {
        key: _difference(key[1], plan.baseline, one, p, p_holm, len(pairs))
        for (key, one), p, p_holm in zip(pairs.items(), p_values, holm(p_values), strict=True)
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
    """None unless a seed has a run in every setting: a mean over fewer of them is another figure."""
    seeds, values_SK = _complete([{run.seed: metric.of(run) for run in study.of(arm, one)} for one in settings])
    if not seeds:
        return None
    return ArmFigures(
        arm=arm,
        num_planned=len(study.plan.seeds) * len(settings),
        seeds=seeds * len(settings),
        values=tuple(values_SK.T.ravel().tolist()),
        mean=float(values_SK.mean()),
        iqm=estimate(values_SK, interquartile_mean),
    )


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """What an arm and the baseline measured with the seeds that both have in every setting."""

    seeds: tuple[int, ...]
    arm_SK: Floats
    """Shape (seeds, settings)."""
    baseline_SK: Floats
    num_left_out: int

    @property
    def differences(self) -> Floats:
        """Of each seed, the mean over the settings."""
        return (self.arm_SK - self.baseline_SK).mean(axis=1)


def _pairs(study: Study, metric: Metric, settings: Sequence[str], arm: str) -> _Pairs:
    """The arm's pairs with the baseline."""
    pairs = [study.pairs(arm, study.plan.baseline, setting) for setting in settings]
    seeds, arm_SK = _complete([{run.seed: metric.of(run) for run, _ in part} for part in pairs])
    _, baseline_SK = _complete([{run.seed: metric.of(run) for _, run in part} for part in pairs])
    num_found = len({run.seed for part in pairs for run, _ in part})
    return _Pairs(seeds=seeds, arm_SK=arm_SK, baseline_SK=baseline_SK, num_left_out=num_found - len(seeds))


def _complete(by_setting: Sequence[Mapping[int, float]]) -> tuple[tuple[int, ...], Floats]:
    """The seeds that every setting has, and their values: a row for each seed, a column for each setting."""
    seeds = tuple(seed for seed in by_setting[0] if all(seed in values for values in by_setting))
    rows = [[values[seed] for values in by_setting] for seed in seeds]
    return seeds, np.array(rows).reshape(len(seeds), len(by_setting))


def _difference(arm: str, baseline: str, pairs: _Pairs, p: float, p_holm: float, num_comparisons: int) -> Difference:
    values = pairs.differences
    found = Difference(
        arm=arm,
        baseline=baseline,
        seeds=pairs.seeds,
        values=tuple(values.tolist()),
        num_left_out=pairs.num_left_out,
        mean=estimate(values, np.mean),
        improvement=probability_of_improvement(pairs.arm_SK, pairs.baseline_SK),
        p_value=p,
        p_holm=p_holm,
        smallest_p=smallest_p(len(values), num_comparisons),
        seeds_needed=None,
        detectable=detectable(values, num_comparisons),
    )
    needed = seeds_needed(values, num_comparisons)
    if found.is_distinguishable or needed is None:
        return found
    return replace(found, seeds_needed=max(needed, len(values) + 1))  # as many as there are have not shown it


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
        pairs = _pairs(study, metric, plan.settings, arm)
        if arm != plan.baseline and pairs.seeds:
            slopes[arm] = (pairs.seeds, np.polyfit(axis, (pairs.arm_SK - pairs.baseline_SK).T, 1)[0])
    p_values = [p_value(slope) for _, slope in slopes.values()]
    return tuple(
        Trend(
            arm=arm,
            baseline=plan.baseline,
            seeds=seeds,
            slope=estimate(slope, np.mean),
            p_value=p,
            p_holm=p_holm,
        )
        for (arm, (seeds, slope)), p, p_holm in zip(slopes.items(), p_values, holm(p_values), strict=True)
    )
