from dataclasses import replace

import pytest

from made_runs import made_study
from turnwise.study.estimates import Estimate
from turnwise.study.statistics import ArmFigures, Comparison, Difference, Metric, Trend, compare
from turnwise.study.verdicts import counted, points, probability, tiers, trend_verdict, verdict, verdicts

FOUND = Difference(
    arm="no_discount",
    baseline="gtpo",
    seeds=tuple(range(10)),
    values=(0.02,) * 9 + (0.03,),
    num_left_out=0,
    mean=Estimate(value=0.021, low=0.004, high=0.039),
    improvement=Estimate(value=0.8, low=0.5, high=0.9),
    p_value=0.0078,
    p_holm=0.031,
    smallest_p=0.0078,
    seeds_needed=None,
    detectable=0.025,
)
BASELINE = ArmFigures(arm="gtpo", num_planned=1, seeds=(0,), values=(0.5,), mean=0.5, iqm=Estimate(value=0.5))
UNCLEAR = replace(FOUND, arm="grpo", mean=Estimate(value=0.005, low=-0.012, high=0.022), p_holm=0.8, seeds_needed=340)


def test_a_difference_that_is_shown() -> None:
    assert verdict(FOUND) == (
        "no_discount is 2.1 points above gtpo (95% interval +0.4 to +3.9, 10 seeds, Holm p 0.031)."
    )
    below = replace(FOUND, mean=Estimate(value=-0.021, low=-0.039, high=-0.004))
    assert verdict(below).startswith("no_discount is 2.1 points below gtpo (95% interval -3.9 to -0.4, ")


def test_an_interval_that_just_leaves_out_zero_is_printed_so() -> None:
    just = replace(FOUND, mean=Estimate(value=0.009, low=0.0004, high=0.018), p_holm=0.25, seeds_needed=20)
    assert "(95% interval +0.04 to +1.80, 10 seeds, Holm p 0.25); the interval leaves out zero" in verdict(just)


def test_a_difference_that_is_not_shown() -> None:
    assert verdict(UNCLEAR) == (
        "grpo is not distinguishable from gtpo: +0.5 points (95% interval -1.2 to +2.2, 10 seeds, "
        "Holm p 0.80); about 340 seeds would be needed to show so small a difference, one of 2.5 points would "
        "probably have shown with these."
    )
    assert "more than 1000 seeds would be needed" in verdict(replace(UNCLEAR, seeds_needed=1001))


def test_an_interval_that_the_test_does_not_confirm() -> None:
    sentence = verdict(replace(FOUND, p_holm=0.25, smallest_p=0.25, seeds_needed=12))
    assert sentence == (
        "no_discount against gtpo: +2.1 points (95% interval +0.4 to +3.9, 10 seeds, Holm p 0.25); the interval leaves "
        "out zero, but the test does not confirm it; about 12 seeds would be needed."
    )


@pytest.mark.parametrize("values", [(0.02,), (0.02, 0.05)])
def test_few_seeds_carry_no_conclusion(values: tuple[float, ...]) -> None:
    few = replace(FOUND, values=values, seeds=tuple(range(len(values))), mean=Estimate(value=0.02), seeds_needed=None)
    sentence = verdict(few)
    assert sentence.endswith(f"nothing follows from {len(values)} seed{'s' if len(values) > 1 else ''}.")
    assert "above" not in sentence
    assert ("from +2.0 to +5.0" in sentence) is (len(values) > 1)


def test_arms_that_end_alike_raise_a_question() -> None:
    alike = replace(FOUND, values=(0.0,) * 10, mean=Estimate(value=0.0), p_holm=1.0)
    assert verdict(alike) == ("no_discount ended exactly as gtpo did, with 10 seeds.")


def test_seeds_that_lack_a_setting_are_named_as_left_out() -> None:
    sentences = verdicts(replace(comparison(replace(FOUND, num_left_out=2)), arms=(BASELINE,)))
    assert sentences[-1] == "no_discount: 2 more seeds left out, with a pair in some of the settings only."
    assert len(verdicts(replace(comparison(FOUND), arms=(BASELINE,)))) == len(sentences) - 1


def comparison(*differences: Difference) -> Comparison:
    return Comparison(metric=Metric.final, settings=("",), baseline="gtpo", arms=(), differences=tuple(differences))


def test_tiers_rank_no_further_than_the_intervals() -> None:
    below = replace(FOUND, arm="slow", mean=Estimate(value=-0.1, low=-0.2, high=-0.05))
    assert tiers(comparison(UNCLEAR, FOUND, below, replace(UNCLEAR, arm="other"))) == (
        "Above gtpo: no_discount; below gtpo: slow; not distinguishable from gtpo: grpo, other."
    )
    assert tiers(comparison(UNCLEAR)) == "Not distinguishable from gtpo: grpo."


def test_tiers_say_when_nothing_could_have_been_found() -> None:
    sentence = tiers(comparison(replace(FOUND, smallest_p=0.25, p_holm=0.25), replace(FOUND, smallest_p=0.5)))
    assert sentence.startswith("No ranking: with so few seeds")
    assert sentence.endswith("the smallest Holm p there can be is 0.25.")


def test_what_cannot_be_compared_is_said() -> None:
    values = {seed: 0.5 + 0.01 * seed for seed in range(6)}
    without_baseline = compare(made_study({"gtpo": {}, "grpo": values}), Metric.final)
    assert verdicts(without_baseline.overall) == ["Nothing can be compared: gtpo, the baseline, has no finished run."]
    one_arm = compare(made_study({"gtpo": values}), Metric.final)
    assert verdicts(one_arm.overall) == ["Nothing can be compared: no other arm shares a seed with gtpo."]
    apart = compare(made_study({"gtpo": values, "grpo": values, "late": {9: 0.5}}), Metric.final)
    assert verdicts(apart.overall)[-1] == "late shares no seed with gtpo."


TREND = Trend(
    arm="grpo",
    baseline="gtpo",
    seeds=tuple(range(8)),
    slope=Estimate(value=0.0123, low=0.002, high=0.02),
    p_value=0.01,
    p_holm=0.02,
)


@pytest.mark.parametrize(
    ("trend", "start", "end"),
    [
        (
            TREND,
            "The difference of grpo from gtpo changes by +1.23 points for each unit of task.horizon (95%",
            "0.020).",
        ),
        (replace(TREND, p_holm=0.2), "The difference of grpo", "leaves out zero, but the test does not confirm it."),
        (
            replace(TREND, p_holm=0.2, slope=Estimate(value=0.001, low=-0.1, high=0.1)),
            "No trend of grpo against gtpo can be told: +0.10 points",
            "Holm p 0.20).",
        ),
        (replace(TREND, slope=Estimate(value=0.001)), "grpo against gtpo: +0.10", "nothing follows from 8 seeds."),
    ],
)
def test_trends(trend: Trend, start: str, end: str) -> None:
    sentence = trend_verdict(trend, "task.horizon")
    assert sentence.startswith(start)
    assert sentence.endswith(end)


def test_numbers_in_words() -> None:
    assert [points(0.0212), points(-0.0001), points(0.0212, signed=False), points(0.00123, digits=2)] == [
        "+2.1",
        "+0.0",
        "2.1",
        "+0.12",
    ]
    assert [probability(p) for p in (0.0002, 0.03, 0.25, 1.0)] == ["< 0.001", "0.030", "0.25", "1.00"]
    assert [counted(1, "run"), counted(2, "run")] == ["1 run", "2 runs"]
