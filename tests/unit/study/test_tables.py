import csv
import io

import pytest
from rich.console import Console

from made_runs import made_study
from turnwise.study.runs import Study
from turnwise.study.statistics import Comparison, Metric, compare
from turnwise.study.tables import (
    COLUMNS,
    comparison_rows,
    comparison_table,
    csv_text,
    latex,
    markdown,
    result_rows,
    run_rows,
    title,
    trend_rows,
)

BASE = {seed: 0.5 + 0.01 * (seed % 3) for seed in range(8)}
STUDY = made_study(
    {
        "gtpo": BASE,
        "no_turn_rewards": {seed: value + 0.1 + 0.001 * seed for seed, value in BASE.items()},
        "late": {0: 0.6, 9: 0.6},
        "apart": {9: 0.7},
    },
    seeds=[*range(8), 9],
)


@pytest.fixture(scope="module")
def overall() -> Comparison:
    return compare(STUDY, Metric.final).overall


def by_arm(overall: Comparison) -> dict[str, dict[str, str]]:
    header, *rows = comparison_rows(overall)
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_a_row_for_each_arm_in_the_order_of_the_plan(overall: Comparison) -> None:
    rows = by_arm(overall)
    assert list(rows) == ["gtpo", "no_turn_rewards", "late", "apart"]
    assert list(rows["gtpo"]) == list(COLUMNS)
    assert (rows["gtpo"]["runs"], rows["gtpo"]["mean"], rows["gtpo"]["difference"]) == ("8/9", "50.9", "baseline")
    found = rows["no_turn_rewards"]
    assert found["difference"].startswith("+10.3 [+10.")  # 10 points and 0.1 * mean of 0 to 7
    assert found["P(better)"].startswith("1.00 [0.68, 1.00]")  # Wilson, 8 of 8: 8 / (8 + 1.96^2)
    assert (found["p"], found["Holm p"], found["verdict"]) == ("0.008", "0.016", "above")  # 2 / 256; two comparisons


def test_what_is_not_known_is_left_empty(overall: Comparison) -> None:
    rows = by_arm(overall)
    assert (rows["late"]["IQM"], rows["late"]["difference"], rows["late"]["seeds needed"]) == ("60.0", "+10.0", "")
    assert (rows["apart"]["difference"], rows["apart"]["verdict"]) == ("no pair", "")
    assert not any(word in text for row in rows.values() for text in row.values() for word in ("nan", "inf", "None"))


def test_markdown_has_one_width(overall: Comparison) -> None:
    lines = markdown(comparison_rows(overall)).splitlines()
    assert len(lines) == 6
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    assert markdown([["a|b", "c"], ["d", "e"]]) == "| a\\|b | c |\n| --- | ---: |\n| d | e |\n"


def test_latex_escapes_names_and_writes_minus_signs() -> None:
    study = made_study({"gtpo": BASE, "a_b%{c}-2": {seed: value - 0.1 for seed, value in BASE.items()}})
    text = latex(compare(study, Metric.final).overall)
    assert r"a\_b\%\{c\}-2 & 8/8 & " in text
    assert "& $-$10.0 &" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") - line.count(r"\&") for line in rows} == {6}
    assert r"\begin{tabular}{lrrrrrr}" in text


def test_the_terminal_shows_every_arm(overall: Comparison) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(comparison_table(overall))
    text = console.export_text()
    assert "Held-out accuracy after the last step" in text
    assert all(arm.arm in text for arm in overall.arms)
    assert "[+10." in text  # brackets are text, not markup


def along_the_horizon() -> Study:
    base = dict.fromkeys(("2", "4"), BASE)
    return made_study(
        {
            "gtpo": base,
            "grpo": {s: {k: v + 0.01 * int(s) + 0.001 * (k % 2) for k, v in one.items()} for s, one in base.items()},
        },
        across="task.horizon",
    )


def test_titles_name_the_setting(overall: Comparison) -> None:
    assert title(overall, "") == "Held-out accuracy after the last step"
    findings = compare(along_the_horizon(), Metric.area)
    assert title(findings.overall, "task.horizon") == (
        "Training accuracy, mean over the steps, over 2 settings of task.horizon"
    )
    assert title(findings.by_setting[1], "task.horizon").endswith(", task.horizon=4")


def test_trends_have_a_row_each() -> None:
    (header, row) = trend_rows(compare(along_the_horizon(), Metric.final).trends)
    assert dict(zip(header, row, strict=True)) == {
        "arm": "grpo",
        "seeds": "8",
        "points per unit": "+1.00",  # the same for every seed, and so without an interval
        "p": "0.008",
        "Holm p": "0.008",
    }


def test_results_for_programs_hold_every_setting_and_metric() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(result_rows([compare(along_the_horizon(), m) for m in Metric])))))
    places = [(row["metric"], row["setting"], row["arm"]) for row in rows]
    assert places == [(m, s, a) for m in ("final", "area") for s in ("all", "2", "4") for a in ("gtpo", "grpo")]
    grpo = rows[1]
    assert float(grpo["difference"]) == pytest.approx(0.0305)  # 0.02 and 0.04, and 0.001 for every second seed
    assert float(grpo["difference_low"]) < 0.0305 < float(grpo["difference_high"])
    assert (grpo["pairs"], grpo["runs"], grpo["planned"]) == ("8", "16", "16")
    assert rows[0]["difference"] == rows[0]["standing"] == ""


def test_runs_by_themselves() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(run_rows(STUDY)))))
    assert len(rows) == 19
    assert rows[1] == {
        "arm": "no_turn_rewards",
        "setting": "",
        "seed": "0",
        "start": "0.25",
        "final": "0.6",
        "final_stderr": "0.01",
        "area": "0.3",
        "steps": "2",
        "wall_s": "90.0",
        "revision": "abc",
        "folder": "no_turn_rewards_seed0",
    }
