import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from synthetic_study import synthetic_study
from turnwise.study.figures import study_figures
from turnwise.study.page import write_page
from turnwise.study.results import write_results
from turnwise.study.runs import Skipped, Study, read_study
from turnwise.study.statistics import Metric, compare

ARMS = ("gtpo", "no_discount", "pool_turn_index", "no_shaping")
WIDE, NARROW = 1200, 400
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def page_of(study: Study) -> Path:
    findings = {metric: compare(study, metric) for metric in Metric}
    return write_page(study, findings, study_figures(study, findings), "make ablations")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Four arms over two horizons; one run is missing, one has a page of its own."""
    root = tmp_path_factory.mktemp("study")
    synthetic_study(root, arms=ARMS, num_seeds=2, num_steps=6, settings=["2", "8"])
    (root / "no_shaping_horizon8_seed1" / "summary.json").unlink()
    (root / "gtpo_horizon2_seed0" / "report.html").write_text("<title>a run</title>")
    return read_study(root)


@pytest.fixture(scope="module")
def path(study) -> Path:
    return page_of(study)


@pytest.fixture(scope="module")
def text(path) -> str:
    return path.read_text()


@pytest.fixture(scope="module")
def opened(browser, path) -> Iterator[Any]:
    """The page at full width; whatever it complains of or asks the network for is in `page.heard`."""
    page = browser.new_page(viewport={"width": WIDE, "height": 900})
    page.heard = heard = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: request.url == path.as_uri() or heard.append(request.url))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert heard == []


def shown(page: Any, arm: int) -> int:
    return page.evaluate(
        "(arm) => [...document.querySelectorAll(`#figures [data-arm='${arm}']`)]"
        ".filter((one) => getComputedStyle(one).display !== 'none').length",
        arm,
    )


def test_the_page_says_what_was_found_and_what_is_missing(study, text):
    assert "3 arms against gtpo" in text
    assert "<li>no_shaping, task.horizon 8, seed 1: " in text
    assert "15 <small>of 16</small>" in text
    assert 'href="gtpo_horizon2_seed0/report.html"' in text
    for run in study.of("gtpo", "8"):
        assert f"{100 * run.final:.1f}" in text  # every run beside the summary


def test_the_page_says_what_differs(text):
    section = text[text.index('id="differing"') : text.index('id="runs"')]
    assert re.findall(r'<th scope="row">([^<]+)</th>', section) == [
        "reward.shaping",
        "advantage.discount",
        "advantage.pool",
    ]
    assert re.findall(r'class="unlike">([^<]+)<', section) == ["False", "1.0", "turn_index"]


def test_the_page_needs_nothing_but_itself(text):
    assert re.findall(r"<(?:link|img|iframe|object|base)\b", text) == []
    assert not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_names_within_the_page_are_used_once(text):
    names = re.findall(r'<[^>]* id="([^"]+)"', text)
    assert len(names) == len(set(names))


def test_hostile_text_stays_text(tmp_path):
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


def test_marks_of_every_plot_are_in_the_page(text):
    marks = json.loads(re.findall(r'id="marks">(.*?)</script>', text)[0])
    assert text.count('class="plot"') == len(marks)
    assert all(0 <= place < len(ARMS) for plot in marks for place, *_ in plot)


def test_boxes_show_and_hide_an_arm_in_every_figure(opened):
    everything = shown(opened, 1)
    assert everything > 20
    opened.get_by_role("checkbox", name="no_discount").uncheck()
    assert shown(opened, 1) == 0
    assert shown(opened, 2) > 0
    opened.get_by_role("button", name="Baseline only").click()
    assert (shown(opened, 0) > 0, shown(opened, 2)) == (True, 0)
    opened.get_by_role("button", name="All").click()
    assert shown(opened, 1) == everything


def test_arrow_keys_read_the_values_of_the_arms_shown(opened):
    plot = opened.get_by_role("group", name=re.compile("Training accuracy, task.horizon 2:")).first
    words = plot.get_by_role("status")
    plot.focus()
    plot.press("ArrowRight")
    assert words.inner_text().splitlines()[0] == "step 0"
    assert len(words.inner_text().splitlines()) == 1 + len(ARMS)
    plot.press("ArrowRight")
    assert words.inner_text().splitlines()[0] == "step 1"
    opened.get_by_role("checkbox", name="no_discount").uncheck()
    plot.focus()
    plot.press("ArrowLeft")
    assert "no_discount" not in words.inner_text()
    plot.press("Escape")
    assert words.inner_text() == ""
    opened.get_by_role("checkbox", name="no_discount").check()


def test_the_pointer_reads_the_nearest_values(opened):
    plot = opened.get_by_role("group", name=re.compile("Effect of each arm.*Held-out")).first
    plot.scroll_into_view_if_needed()
    box = plot.locator("svg").bounding_box()
    marks = json.loads(opened.locator("#marks").text_content())[int(plot.get_attribute("data-plot"))]
    width = plot.locator("svg").evaluate("(svg) => svg.viewBox.baseVal.width")
    place, _, x, y, text = marks[-1]
    opened.mouse.move(box["x"] + x * box["width"] / width, box["y"] + y * box["width"] / width)
    assert plot.get_by_role("status").inner_text().splitlines() == [ARMS[place], text]
    opened.mouse.move(0, 0)
    assert plot.get_by_role("status").inner_text() == ""


def test_everything_that_opens_opens_and_everything_is_named(opened):
    for summary in opened.locator("summary").all():
        summary.evaluate("(summary) => { summary.parentElement.open = true; }")
    assert opened.locator("details:not([open])").count() == 0
    unnamed = opened.evaluate(
        "() => [...document.querySelectorAll('a, button, input, select, [role=img], [role=group], [role=region]')]"
        ".filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    levels = opened.evaluate("() => [...document.querySelectorAll('h1, h2, h3, h4')].map((one) => +one.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert [opened.locator(name).count() for name in ("main", "nav", "body > header")] == [1, 1, 1]


def test_nothing_overflows_on_a_phone_and_colours_follow_the_theme(browser, path):
    page = browser.new_page(viewport={"width": NARROW, "height": 800}, color_scheme="dark")
    page.goto(path.as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("() => document.documentElement.scrollWidth") == NARROW
    ink = "() => getComputedStyle(document.querySelector('#figures [data-arm=\"0\"] path')).stroke"
    dark = page.evaluate(ink)
    page.emulate_media(color_scheme="light")
    assert (dark, page.evaluate(ink)) == ("rgb(230, 232, 234)", "rgb(31, 35, 40)")
    page.close()
