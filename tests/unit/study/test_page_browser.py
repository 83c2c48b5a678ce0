"""The page of a study in a browser."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from synthetic_study import synthetic_study
from turnwise.study.drawing.lines import Lines
from turnwise.study.drawing.panel import Point
from turnwise.study.drawing.render import Figure
from turnwise.study.figures import Figures
from turnwise.study.page import write_page
from turnwise.study.statistics import Metric, compare

WIDE, NARROW = 1200, 400


@pytest.fixture
def arms(paged_study) -> list[str]:
    """In the plan's order, the baseline first."""
    return list(paged_study.plan.arms)


@pytest.fixture(scope="module")
def opened(browser, page_path) -> Iterator[Any]:
    """The page at full width; whatever it complains of or asks the network for is in `page.heard`."""
    page = browser.new_page(viewport={"width": WIDE, "height": 900})
    page.heard = heard = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: request.url == page_path.as_uri() or heard.append(request.url))
    page.goto(page_path.as_uri())
    yield page
    page.close()
    assert heard == []


def shown(page: Any, arm: int) -> int:
    return page.evaluate(
        "(arm) => [...document.querySelectorAll(`#figures [data-arm='${arm}']`)]"
        ".filter((one) => getComputedStyle(one).display !== 'none').length",
        arm,
    )


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


def test_arrow_keys_read_the_values_of_the_arms_shown(opened, arms):
    plot = opened.get_by_role("group", name=re.compile("Training accuracy, task.horizon 2:")).first
    words = plot.get_by_role("status")
    plot.focus()
    plot.press("ArrowRight")
    assert words.inner_text().splitlines()[0] == "step 0"
    assert len(words.inner_text().splitlines()) == 1 + len(arms)
    plot.press("ArrowRight")
    assert words.inner_text().splitlines()[0] == "step 1"
    opened.get_by_role("checkbox", name="no_discount").uncheck()
    plot.focus()
    plot.press("ArrowLeft")
    assert "no_discount" not in words.inner_text()
    plot.press("Escape")
    assert words.inner_text() == ""
    opened.get_by_role("checkbox", name="no_discount").check()


def test_the_pointer_reads_the_nearest_values(opened, arms):
    plot = opened.get_by_role("group", name=re.compile("Effect of each arm.*Held-out")).first
    plot.scroll_into_view_if_needed()
    box = plot.locator("svg").bounding_box()
    marks = json.loads(opened.locator("#marks").text_content())[int(plot.get_attribute("data-plot"))]
    width = plot.locator("svg").evaluate("(svg) => svg.viewBox.baseVal.width")
    place, _, x, y, text = marks[-1]
    opened.mouse.move(box["x"] + x * box["width"] / width, box["y"] + y * box["width"] / width)
    assert plot.get_by_role("status").inner_text().splitlines() == [arms[place], text]
    opened.mouse.move(0, 0)
    assert plot.get_by_role("status").inner_text() == ""


READ_ROWS = """
plot => {
  const svg = plot.querySelector("svg"), box = svg.getBoundingClientRect();
  const placed = (names) => [...svg.querySelectorAll(names)].map((one) => [one, one.getBoundingClientRect()]);
  const seen = (names) => placed(names).filter(([, at]) => at.height);
  const isOut = ({ top, bottom }) => top < box.top - 1 || bottom > box.bottom + 1;
  const names = seen("[data-arm] text").filter(([one]) => getComputedStyle(one).textAnchor === "end");
  const scale = svg.viewBox.baseVal.width / box.width;
  return {
    names: names.map(([one]) => one.textContent),
    middles: names.map(([, { top, height }]) => (top + height / 2 - box.top) * scale),
    height: svg.viewBox.baseVal.height,
    outside: seen("text, [data-part] path").filter(([, at]) => isOut(at)).length,
  };
}
"""
"""Of a plot: arms named beside rows, the middle of each name and the height, in units of the SVG; what lies outside."""


def test_rows_close_up_and_keep_their_values(opened, arms):
    plot = opened.locator("[data-plot='0']")
    places, top, pitch = json.loads(plot.get_attribute("data-rows"))
    assert places == [0, 1, 2, 3]
    whole = plot.evaluate(READ_ROWS)
    assert (whole["names"], whole["outside"]) == (arms, 0)
    opened.get_by_role("checkbox", name="no_discount").uncheck()
    opened.get_by_role("checkbox", name="pool_turn_index").uncheck()
    closed = plot.evaluate(READ_ROWS)
    assert closed["names"] == ["gtpo", "no_shaping"]
    assert closed["middles"] == pytest.approx([top + pitch * 0.5, top + pitch * 1.5], abs=1.5)
    assert closed["height"] == pytest.approx(whole["height"] - 2 * pitch, abs=0.01)
    assert closed["outside"] == 0  # the axis came along
    plot.focus()
    plot.press("ArrowDown")
    plot.press("ArrowDown")
    assert plot.get_by_role("status").inner_text().startswith("no_shaping")
    assert float(plot.locator(".ring").get_attribute("cy")) == pytest.approx(top + pitch * 1.5, abs=0.1)
    plot.press("Escape")
    opened.get_by_role("button", name="All").click()
    again = plot.evaluate(READ_ROWS)
    assert (again["names"], again["height"]) == (arms, whole["height"])
    assert again["middles"] == pytest.approx(whole["middles"], abs=0.01)


def test_a_figure_without_a_ticked_arm_says_so_instead_of_showing_empty_axes(opened):
    count = opened.locator("#num-arms")
    assert count.inner_text() == "4 of 4 shown"
    effects = opened.locator(".study-figure", has=opened.get_by_role("heading", name=re.compile("Effect of each arm")))
    opened.get_by_role("button", name="Baseline only").click()
    assert count.inner_text() == "1 of 4 shown"
    assert count.get_attribute("role") == "status"
    assert effects.locator(".none").inner_text() == "No arm that is ticked is in this figure."
    assert effects.locator(".plot:visible").count() == 0
    assert opened.locator("#figures [data-arms]:visible").count() == 0  # nothing joins the baseline to a hidden arm
    assert opened.locator("#figures .plot:visible").count() > 5
    opened.get_by_role("checkbox", name="gtpo").uncheck()
    assert count.inner_text() == "No arm is ticked, so nothing is drawn"
    assert opened.locator("#figures .plot:visible").count() == 0
    assert set(opened.locator("#figures .none:visible").all_inner_texts()) == {"No arm is ticked."}
    opened.get_by_role("button", name="All").click()
    assert opened.locator("#figures .none:visible").count() == 0
    assert effects.locator(".plot:visible").count() == 2
    assert opened.locator("#figures [data-arms]:visible").count() > 0


def test_a_plot_about_one_arm_goes_with_it(browser, tmp_path):
    study = synthetic_study(tmp_path, arms=["gtpo", "no_discount", "no_shaping"], num_seeds=1, num_steps=2)
    lines = {arm: [Point(x=0.0, value=0.5), Point(x=1.0, value=0.6)] for arm in study.plan.arms}
    panels = [
        Lines(title=f"{arm}, along the way", x_label="step", y_label="", lines={"gtpo": lines["gtpo"], arm: lines[arm]})
        for arm in ("no_discount", "no_shaping")
    ]
    drawn = [Figure(name="pairs", title="Pairs", about="Each arm beside the baseline.", panels=panels)]
    findings = {metric: compare(study, metric) for metric in Metric}
    page = browser.new_page()
    page.goto(write_page(study, findings, Figures(drawn=drawn, left_out={}), "make ablations").as_uri())
    page.get_by_role("checkbox", name="no_discount").uncheck()
    assert page.locator("#figures h4:visible").all_inner_texts() == ["no_shaping, along the way"]
    assert page.locator("#figures .none").is_hidden()
    page.get_by_role("button", name="Baseline only").click()
    assert page.locator("#figures h4:visible").count() == 0
    assert page.locator("#figures .none").is_visible()
    page.close()


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


@pytest.mark.parametrize("width", [320, NARROW])
def test_a_phone_shows_arm_difference_and_verdict_of_every_row_side_by_side(browser, page_path, arms, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(page_path.as_uri())
    table = page.locator(".compared").first
    rows = [row for row in table.get_by_role("row").all() if row.get_by_role("cell").count()]
    assert len(rows) == len(arms)
    for arm, row in zip(arms, rows, strict=True):
        assert row.get_by_role("rowheader").inner_text() == arm
        cells = [row.locator(".arm"), row.locator(".difference"), row.locator(".verdict")]
        boxes = [cell.bounding_box() for cell in cells]
        assert len({round(box["y"]) for box in boxes}) == 1
        assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))
        assert boxes[0]["x"] >= 0
        assert boxes[-1]["x"] + boxes[-1]["width"] <= width
        assert cells[1].inner_text()
    assert table.get_by_role("columnheader").all_inner_texts()[:3] == ["arm", "runs", "mean"]  # heard, if not seen
    hidden = "(all) => all.filter((one) => one.textContent && !one.checkVisibility()).length"
    assert table.locator("td").evaluate_all(hidden) == 0  # every figure is there as well
    assert "IQM" in table.locator("td").nth(2).evaluate("(one) => getComputedStyle(one, '::before').content")
    region = page.locator(".scroll", has=page.locator(".compared")).first
    assert region.evaluate("(one) => one.scrollWidth - one.clientWidth") == 0
    page.close()


def test_a_wide_page_has_room_for_every_column(opened):
    region = opened.locator(".scroll", has=opened.locator(".compared")).first
    assert region.evaluate("(one) => one.scrollWidth - one.clientWidth") == 0
    rows = region.get_by_role("row").all()
    assert {round(row.get_by_role("cell").last.bounding_box()["y"] - row.bounding_box()["y"]) for row in rows[1:]} == {
        0
    }
    assert {one.evaluate("(one) => getComputedStyle(one).display") for one in rows} == {"table-row"}


def test_a_table_with_more_to_the_side_has_a_shade_there(browser, page_path):
    page = browser.new_page(viewport={"width": NARROW, "height": 800})
    page.goto(page_path.as_uri())
    region = page.locator(".differing")
    assert region.evaluate("(one) => one.scrollWidth > one.clientWidth")
    region.scroll_into_view_if_needed()
    box = region.bounding_box()
    strip = {"x": box["x"] + box["width"] - 8, "y": box["y"] + 4, "width": 8, "height": 20}
    page.add_style_tag(content=".differing * { color: transparent !important; border-color: transparent !important; }")
    shaded = page.screenshot(clip=strip)
    region.evaluate("(one) => { one.scrollLeft = one.scrollWidth; }")
    assert page.screenshot(clip=strip) != shaded
    page.close()


def test_nothing_overflows_on_a_phone_and_colours_follow_the_theme(browser, page_path):
    page = browser.new_page(viewport={"width": NARROW, "height": 800}, color_scheme="dark")
    page.goto(page_path.as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("() => document.documentElement.scrollWidth") == NARROW
    ink = "() => getComputedStyle(document.querySelector('#figures [data-arm=\"0\"] path')).stroke"
    dark = page.evaluate(ink)
    page.emulate_media(color_scheme="light")
    assert (dark, page.evaluate(ink)) == ("rgb(230, 232, 234)", "rgb(31, 35, 40)")
    page.close()
