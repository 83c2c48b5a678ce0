from dataclasses import replace

import numpy as np
import pytest

from made_runs import made_study
from turnwise.study.estimates import ALPHA, Estimate
from turnwise.study.statistics import Difference, Findings, Metric, Standing, compare

SEEDS = range(10)
BASE = {seed: 0.5 + 0.01 * (seed % 3) for seed in SEEDS}
STUDY = made_study(
    {
        "gtpo": BASE,
        "better": {seed: value + 0.05 + 0.002 * (seed % 4) for seed, value in BASE.items()},
        "same": {seed: value + 0.01 * (-1) ** seed for seed, value in BASE.items()},
        "worse": {seed: value - 0.04 + 0.003 * (seed % 2) for seed, value in BASE.items()},
    }
)


@pytest.fixture(scope="module")
def findings() -> Findings:
    return compare(STUDY, Metric.final)


def test_arms_have_their_values_by_seed(findings: Findings) -> None:
    gtpo = findings.overall.arms[0]
    assert (gtpo.arm, gtpo.num_planned) == ("gtpo", 10)
    assert dict(zip(gtpo.seeds, gtpo.values, strict=True)) == BASE
    assert gtpo.mean == pytest.approx(0.509)  # seeds 0, 3, 6, 9: 0.50; three of 0.51, three of 0.52
    # trimmed of two at each end (0.50 0.50 ... 0.52 0.52): 0.50 0.50 0.51 0.51 0.51 0.52
    assert gtpo.iqm.value == pytest.approx(3.05 / 6)


def test_differences_are_paired_by_seed(findings: Findings) -> None:
    better, same, worse = findings.overall.differences
    assert better.values == pytest.approx([0.05 + 0.002 * (seed % 4) for seed in SEEDS])
    assert better.mean.value == pytest.approx(0.0526)  # remainders 0 1 2 3 0 1 2 3 0 1 sum to 13; 0.05 + 0.002 * 1.3
    assert better.mean.low > 0.05
    assert better.p_value == 2 / 1024
    assert better.p_holm == pytest.approx(3 * 2 / 1024)
    assert better.smallest_p == pytest.approx(3 * 2 / 1024)
    assert better.improvement.value == 1.0
    assert same.p_value == 1.0
    assert worse.mean.value == pytest.approx(-0.0385)


def test_arms_stand_where_interval_and_test_put_them(findings: Findings) -> None:
    overall = findings.overall
    assert [overall.tier(standing) for standing in Standing] == [["better"], ["same"], ["worse"]]
    assert (overall.setting, overall.settings, findings.by_setting, findings.trends) == ("", ("",), (), ())


def test_both_interval_and_test_have_to_agree(findings: Findings) -> None:
    better = findings.overall.differences[0]
    assert better.standing is Standing.above
    assert replace(better, p_holm=0.051).standing is Standing.unclear
    assert replace(better, mean=Estimate(value=0.05, low=-0.001, high=0.1)).standing is Standing.unclear
    assert replace(better, mean=Estimate(value=0.05)).standing is Standing.unclear


def test_the_area_is_another_metric() -> None:
    area, final = (compare(STUDY, metric).overall.differences[0] for metric in (Metric.area, Metric.final))
    assert area.mean.value == pytest.approx(final.mean.value / 2)  # so these runs are made


def test_order_of_arms_and_of_baseline_changes_signs_only() -> None:
    turned = made_study({"better": dict(values_of("better")), "gtpo": BASE}, baseline="better")
    (back,) = compare(turned, Metric.final).overall.differences
    (there,) = compare(
        made_study({"gtpo": BASE, "better": dict(values_of("better"))}), Metric.final
    ).overall.differences
    assert back.mean.value == pytest.approx(-there.mean.value)
    assert back.p_value == there.p_value
    assert back.improvement.value == 1 - there.improvement.value
    assert (back.standing, there.standing) == (Standing.below, Standing.above)
    assert back.detectable == pytest.approx(there.detectable)
    assert back.seeds_needed is there.seeds_needed is None  # it is shown already


def values_of(arm: str) -> dict[int, float]:
    return {run.seed: run.final for run in STUDY.of(arm)}


def only(values: dict[int, float], base: dict[int, float]) -> Difference:
    return compare(made_study({"gtpo": base, "other": values}), Metric.final).overall.differences[0]


def test_a_huge_effect_with_five_seeds_is_not_confirmed() -> None:
    found = only({seed: 0.9 + 0.01 * seed for seed in range(5)}, dict.fromkeys(range(5), 0.1))
    assert found.mean.excludes_zero
    assert found.p_holm == found.smallest_p == 2 / 32
    assert found.standing is Standing.unclear
    assert found.seeds_needed == 6


def test_an_unclear_difference_needs_more_seeds_than_there_are() -> None:
    found = only(dict.fromkeys(range(5), 0.6) | {5: 0.499}, dict.fromkeys(range(6), 0.5))
    # 4 of the 64 signs are as extreme: 0.0625; yet six seeds would do by the power of a t-test with so large an effect
    assert (found.p_value, found.standing) == (4 / 64, Standing.unclear)
    assert found.seeds_needed == 7


def test_two_seeds_carry_nothing() -> None:
    found = only({0: 0.9, 1: 0.91}, {0: 0.1, 1: 0.1})
    assert not found.mean.has_interval
    assert (found.p_value, found.standing, found.seeds_needed) == (0.5, Standing.unclear, None)


def test_one_seed_carries_nothing() -> None:
    found = only({0: 0.9}, {0: 0.1})
    assert found.mean.value == pytest.approx(0.8)
    assert not found.mean.has_interval
    assert (found.p_value, found.smallest_p, found.standing) == (1.0, 1.0, Standing.unclear)


def test_arms_that_end_alike_are_not_called_certainly_equal() -> None:
    found = only(BASE, BASE)
    assert set(found.values) == {0.0}
    assert not found.mean.has_interval
    assert (found.p_value, found.improvement.value) == (1.0, 0.5)


def test_seeds_of_one_arm_only_leave_its_difference() -> None:
    found = only({seed: 0.6 + 0.001 * seed for seed in range(2, 12)}, BASE)
    assert found.seeds == tuple(range(2, 10))


def test_an_arm_without_runs_is_left_out_of_the_correction() -> None:
    study = made_study({"gtpo": BASE, "better": values_of("better"), "never": {}})
    overall = compare(study, Metric.final).overall
    assert [one.arm for one in overall.arms] == ["gtpo", "better"]
    assert [one.arm for one in overall.differences] == ["better"]
    assert overall.differences[0].p_holm == overall.differences[0].p_value


def test_without_the_baseline_arms_still_have_figures() -> None:
    overall = compare(made_study({"gtpo": {}, "better": values_of("better")}), Metric.final).overall
    assert [one.arm for one in overall.arms] == ["better"]
    assert overall.differences == ()


def test_a_study_without_runs_says_why() -> None:
    with pytest.raises(ValueError, match="study: none of the 4 runs can be used: not run"):
        compare(made_study({"gtpo": {}, "grpo": {}}, seeds=(0, 1)), Metric.final)


def along(slope: float, *, settings: tuple[str, ...] = ("2", "4", "8"), missing: tuple[str, ...] = ()) -> Findings:
    """An arm whose difference is 0.01 + slope * horizon, a little more for odd seeds."""
    base = {setting: {seed: 0.3 + 0.01 * seed for seed in range(8)} for setting in settings}
    arm = {
        setting: {seed: value + 0.01 + slope * place + 0.001 * (seed % 2) * place for seed, value in values.items()}
        for place, (setting, values) in zip((2, 4, 8), base.items(), strict=True)
        if setting not in missing
    }
    return compare(made_study({"gtpo": base, "arm": arm}, across="task.horizon"), Metric.final)


def test_settings_are_compared_together_and_each_by_itself() -> None:
    findings = along(0.02)
    (overall,) = findings.overall.differences
    assert (overall.num_pairs, overall.num_left_out) == (8, 0)
    assert overall.seeds == tuple(range(8))
    assert overall.p_value == overall.smallest_p == 2 / 256  # eight seeds, whatever the number of settings
    # mean horizon 14 / 3: 0.01 + (0.02 + 0.0005) * 14 / 3
    assert overall.mean.value == pytest.approx(0.01 + 0.0205 * 14 / 3)
    assert [one.setting for one in findings.by_setting] == ["2", "4", "8"]
    last = findings.by_setting[-1].differences[0]
    assert last.mean.value == pytest.approx(0.01 + 0.0205 * 8)
    assert last.p_value == 2 / 256
    assert last.p_holm == pytest.approx(3 * 2 / 256)  # one arm in three settings: three comparisons


def test_settings_that_repeat_one_another_add_no_evidence() -> None:
    """The figures over three settings are those of one alone, where all three are the same."""
    arm = {seed: value + 0.01 * (seed % 4) - 0.005 for seed, value in BASE.items()}
    alone = compare(made_study({"gtpo": BASE, "arm": arm}), Metric.final).overall
    settings = ("2", "4", "8")
    study = made_study(
        {"gtpo": dict.fromkeys(settings, BASE), "arm": dict.fromkeys(settings, arm)}, across="task.horizon"
    )
    together = compare(study, Metric.final).overall
    (one,), (other,) = alone.differences, together.differences
    assert one.mean.has_interval
    assert (other.mean.low, other.mean.high) == pytest.approx((one.mean.low, one.mean.high))
    assert (other.improvement, other.p_value, other.smallest_p) == (one.improvement, one.p_value, one.smallest_p)
    assert (other.seeds_needed, other.detectable) == (one.seeds_needed, pytest.approx(one.detectable))


def test_seeds_without_a_pair_in_every_setting_are_left_out_and_counted() -> None:
    base = {setting: {seed: 0.3 + 0.01 * seed for seed in range(8)} for setting in ("2", "4")}
    arm = {setting: {seed: value + 0.1 for seed, value in values.items()} for setting, values in base.items()}
    del arm["4"][0], base["2"][7]
    overall = compare(made_study({"gtpo": base, "arm": arm}, across="task.horizon"), Metric.final).overall
    (found,) = overall.differences
    assert (found.seeds, found.num_left_out) == (tuple(range(1, 7)), 2)
    assert [set(one.seeds) for one in overall.arms] == [set(range(7)), set(range(1, 8))]
    assert [len(one.values) for one in overall.arms] == [14, 14]


def test_what_a_seed_shares_between_its_settings_is_not_taken_for_an_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("estimate", "probability_of_improvement", "detectable", "seeds_needed"):  # slow, of no concern here
        monkeypatch.setattr(f"turnwise.study.statistics.{name}", lambda *_: None)
    monkeypatch.setattr("turnwise.study.statistics.Difference.is_distinguishable", True)
    monkeypatch.setattr("turnwise.study.statistics.holm", list)  # one comparison over all settings: the identity
    rng = np.random.default_rng(0)
    base = dict.fromkeys("abc", dict.fromkeys(range(6), 0.5))
    alarms = []
    for _ in range(60):
        shared = np.sqrt(0.6) * rng.normal(size=6)
        arm = {setting: dict(enumerate(0.5 + 0.01 * (shared + np.sqrt(0.4) * rng.normal(size=6)))) for setting in base}
        overall = compare(made_study({"gtpo": base, "arm": arm}, across="task.kind"), Metric.final).overall
        alarms.append(overall.differences[0].p_value <= ALPHA)
    # 2 of 64 signs have a p of at most 0.05: 1.9 alarms expected, 11 if the 18 runs were taken as independent
    assert sum(alarms) <= 5


def test_a_trend_is_the_slope_of_each_seed_averaged() -> None:
    (trend,) = along(0.02).trends
    assert trend.slope.value == pytest.approx(0.0205)
    assert (trend.slope.low, trend.slope.high) == pytest.approx((0.0201, 0.0209), abs=2e-4)
    assert trend.is_distinguishable
    assert trend.seeds == tuple(range(8))


def test_no_trend_is_found_where_there_is_none() -> None:
    (trend,) = along(-0.0005).trends
    assert trend.slope.value == pytest.approx(0.0, abs=1e-12)
    assert not trend.is_distinguishable


def test_settings_that_are_no_numbers_have_no_trend() -> None:
    findings = along(0.02, settings=("short", "middle", "long"))
    assert findings.trends == ()
    assert len(findings.by_setting) == 3


def test_an_arm_that_lacks_a_setting_is_not_averaged_over_the_others() -> None:
    findings = along(0.02, missing=("8",))
    assert [one.arm for one in findings.overall.arms] == ["gtpo"]
    assert findings.overall.differences == ()
    assert findings.trends == ()
    assert [len(one.differences) for one in findings.by_setting] == [1, 1, 0]
