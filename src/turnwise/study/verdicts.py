"""What the figures allow to be said, in plain sentences that are never stronger than they are."""

from collections.abc import Iterable

from turnwise.study.estimates import ALPHA, MAX_SEEDS, Estimate
from turnwise.study.runs import Skipped
from turnwise.study.statistics import Comparison, Difference, Metric, Standing, Trend

TITLES = {
    Metric.final: "Held-out accuracy after the last step",
    Metric.area: "Training accuracy, mean over the steps",
}
"""What each metric measures."""


def verdicts(comparison: Comparison) -> list[str]:
    """One sentence on the whole, then one on each arm, then the arms of which nothing can be said."""
    baseline = comparison.baseline
    figures = {one.arm: one for one in comparison.arms}
    if baseline not in figures:
        return [f"Nothing can be compared: {baseline}, the baseline, has no finished run{_everywhere(comparison)}."]
    if not comparison.differences:
        return [f"Nothing can be compared: no other arm shares a seed with {baseline}{_everywhere(comparison)}."]
    compared = {one.arm for one in comparison.differences}
    alone = [f"{arm} shares no seed with {baseline}." for arm in figures if arm not in compared | {baseline}]
    partial = [
        f"{one.arm}: {counted(one.num_left_out, 'more seed')} left out, with a pair in some of the settings only."
        for one in comparison.differences
        if one.num_left_out
    ]
    return [tiers(comparison), *(verdict(one) for one in comparison.differences), *partial, *alone]


def tiers(comparison: Comparison) -> str:
    """The ranking, as far as it goes: arms above the baseline, below it, and those the seeds cannot tell from it."""
    baseline, differences = comparison.baseline, comparison.differences
    if all(one.smallest_p > ALPHA for one in differences):
        least = min(one.smallest_p for one in differences)
        return (
            f"No ranking: with so few seeds for so many comparisons, no difference from {baseline} can be confirmed; "
            f"the smallest Holm p there can be is {probability(least)}."
        )
    words = [
        f"{standing} {baseline}: {', '.join(arms)}"
        for standing in (Standing.above, Standing.below)
        if (arms := comparison.tier(standing))
    ]
    if unclear := comparison.tier(Standing.unclear):
        words.append(f"not distinguishable from {baseline}: {', '.join(unclear)}")
    sentence = "; ".join(words) + "."
    return sentence[0].upper() + sentence[1:]


def verdict(difference: Difference) -> str:
    """What can be said of one arm against the baseline."""
    arm, baseline, mean, values = difference.arm, difference.baseline, difference.mean, difference.values
    seeds = counted(difference.num_pairs, "seed")
    if not any(values):
        return f"{arm} ended exactly as {baseline} did, with {seeds}."
    if not mean.has_interval:
        spread = f", from {points(min(values))} to {points(max(values))}" if len(values) > 1 else ""
        return f"{arm} against {baseline}: {points(mean.value)} points{spread}; nothing follows from {seeds}."
    evidence = _evidence(mean, seeds, difference.p_holm)
    if difference.is_distinguishable:
        return f"{arm} is {points(abs(mean.value), signed=False)} points {difference.standing} {baseline} ({evidence})."
    needed = seeds_in_words(difference)
    if mean.excludes_zero:
        return (
            f"{arm} against {baseline}: {points(mean.value)} points ({evidence}); the interval leaves out zero, but "
            f"the test does not confirm it; {needed} seeds would be needed."
        )
    seen = difference.detectable
    others = (
        "" if seen is None else f", one of {points(seen, signed=False)} points would probably have shown with these"
    )
    return (
        f"{arm} is not distinguishable from {baseline}: {points(mean.value)} points ({evidence}); "
        f"{needed} seeds would be needed to show so small a difference{others}."
    )


def trend_verdict(trend: Trend, axis: str) -> str:
    """What can be said of how an arm's difference changes along the axis."""
    slope, seeds = trend.slope, counted(len(trend.seeds), "seed")
    change = f"{points(slope.value, digits=2)} points for each unit of {axis}"
    if not slope.has_interval:
        return f"{trend.arm} against {trend.baseline}: {change}; nothing follows from {seeds}."
    evidence = _evidence(slope, seeds, trend.p_holm, digits=2)
    if trend.is_distinguishable:
        return f"The difference of {trend.arm} from {trend.baseline} changes by {change} ({evidence})."
    if slope.excludes_zero:
        return (
            f"The difference of {trend.arm} from {trend.baseline} changes by {change} ({evidence}); the interval "
            "leaves out zero, but the test does not confirm it."
        )
    return f"No trend of {trend.arm} against {trend.baseline} can be told: {change} ({evidence})."


def points(share: float, *, signed: bool = True, digits: int = 1) -> str:
    """A difference of accuracies in percentage points."""
    number = round(100 * share, digits) or 0.0
    return f"{number:+.{digits}f}" if signed else f"{number:.{digits}f}"


def probability(value: float) -> str:
    """A p-value as far as it is worth reading."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def seeds_in_words(difference: Difference) -> str:
    """How many seeds would be needed; empty where that is not known."""
    needed = difference.seeds_needed
    return "" if needed is None else f"more than {MAX_SEEDS}" if needed > MAX_SEEDS else f"about {needed}"


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def skipped_in_words(skipped: Iterable[Skipped], across: str) -> list[str]:
    """A line for the runs of one arm and setting that the study does without for one reason."""
    seeds: dict[tuple[str, str, str], list[str]] = {}
    for one in skipped:
        seeds.setdefault((one.arm, one.setting, one.why), []).append(str(one.seed))
    return [
        f"{arm}{setting and f', {across}={setting}'}, seed{'s' if len(own) > 1 else ''} {', '.join(own)}: {why}"
        for (arm, setting, why), own in seeds.items()
    ]


def _evidence(estimate: Estimate, seeds: str, p_holm: float, digits: int = 1) -> str:
    if estimate.excludes_zero and not all(round(100 * end, digits) for end in (estimate.low, estimate.high)):
        digits += 1  # an end that is printed as zero would hide that zero is left out
    low, high = (points(end, digits=digits) for end in (estimate.low, estimate.high))
    return f"95% interval {low} to {high}, {seeds}, Holm p {probability(p_holm)}"


def _everywhere(comparison: Comparison) -> str:
    return " in every setting" if len(comparison.settings) > 1 else ""
