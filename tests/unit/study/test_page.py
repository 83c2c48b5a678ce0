import json
import re
from dataclasses import replace

import pytest

from synthetic_study import synthetic_study
from turnwise.study.diagnostics import diagnostic_rows, late_steps
from turnwise.study.results import write_results
from turnwise.study.runs import Skipped

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def text(page_path) -> str:
    return page_path.read_text()


def test_the_page_says_what_was_found_and_what_is_missing(paged_study, text):
    assert "3 arms against gtpo" in text
    assert "<li>no_shaping, task.horizon=8, seed 1: " in text
    assert "15 <small>of 16</small>" in text
    assert 'href="gtpo_horizon2_seed0/report.html"' in text
    for run in paged_study.of("gtpo", "8"):
        assert f"{100 * run.final:.1f}" in text  # every run beside the summary


def test_the_page_says_what_differs(text):
    section = text[text.index('id="differing"') : text.index('id="runs"')]
    assert re.findall(r'<th scope="row">([^<]+)</th>', section) == [
        "reward.shaping",
        "advantage.discount",
        "advantage.pool",
    ]
    assert re.findall(r'class="unlike">([^<]+)<', section) == ["False", "1.0", "turn_index"]


def test_the_page_says_how_training_went_in_every_setting(paged_study, text):
    start = text.index("<h2>In training</h2>")
    part = text[start : text.index("</section>", start)]
    assert f"Means over {late_steps(paged_study.plan.num_steps)}" in part
    for setting in paged_study.plan.settings:
        for _, *figures in diagnostic_rows(paged_study, setting)[1:]:
            assert "".join(f"<td>{figure}</td>" for figure in figures) in part


def test_the_page_needs_nothing_but_itself(text):
    assert re.findall(r"<(?:link|img|iframe|object|base)\b", text) == []
    assert not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_names_within_the_page_are_used_once(text):
    names = re.findall(r'<[^>]* id="([^"]+)"', text)
    assert len(names) == len(set(names))


def test_damaged_trajectories_are_named(page_of, tmp_path):
    study = synthetic_study(tmp_path, arms=["gtpo"], num_seeds=1, num_steps=2)
    damaged = (Skipped(arm="gtpo", setting="", seed=0, why="groups/ is broken at step 1"),)
    text = page_of(replace(study, damaged=damaged)).read_text()
    assert "<li>gtpo, seed 0: groups/ is broken at step 1</li>" in text
    assert "missing or broken" not in page_of(study).read_text()


def test_hostile_text_stays_text(page_of, tmp_path):
    study = synthetic_study(tmp_path, arms=["gtpo", "no_shaping"], num_seeds=1, num_steps=2)
    plan = replace(study.plan, overrides=(HOSTILE,))
    skipped = (Skipped(arm="gtpo", setting="", seed=9, why=HOSTILE),)
    for run in study.runs:
        run.record["config"]["reward"]["shaping"] = HOSTILE + run.arm  # type: ignore[index]
    page = page_of(replace(study, plan=plan, skipped=skipped)).read_text()
    assert "<img" not in page
    assert len(re.findall(r"<script", page)) == 3  # trajectories, marks, and the page's own
    assert page.count("&lt;img src=x onerror=alert(2)&gt;") >= 3


def test_a_study_of_one_run_still_has_results_and_a_page(tmp_path):
    paths = write_results(synthetic_study(tmp_path, arms=["gtpo"], num_seeds=1, num_steps=2), {})
    assert [path.name for path in paths[-2:]] == ["figures", "report.html"]
    assert (tmp_path / "figures/final_accuracy.png").exists()
    text = paths[-1].read_text()
    assert "Nothing can be compared" in text
    assert "Across settings: needs a study that goes across settings." in text
    assert "make ablations ARGS=" in text


def test_marks_of_every_plot_are_in_the_page(paged_study, text):
    marks = json.loads(re.findall(r'id="marks">(.*?)</script>', text)[0])
    assert text.count('class="plot"') == len(marks)
    assert all(0 <= place < len(paged_study.plan.arms) for plot in marks for place, *_ in plot)
