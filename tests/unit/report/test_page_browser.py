"""The report of a run in a browser: what it needs, who can use it, and what text can do to it."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from turnwise.report.page import write_report
from turnwise.types import ToolStatus
from viewer_runs import log, mixed_group, said, scored, viewer_page

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!-- <script>"
RIGHT_TO_LEFT = "\u202eשלום עולם\u202c, مرحبا"
LONE_SURROGATE = "\ud83d"

TEXTS = """
    .turn > header, .matrix td button, .column-head p, .yes, .no, .tool .meta, .keyword, .number, .comment,
    #problem-text .meta, .quiet, .tokens .out, .badge
"""
COLOURS = """
texts => [...document.querySelectorAll(texts)].filter(one => one.offsetParent !== null).map(one => {
  const behind = [];
  for (let at = one; at; at = at.parentElement) behind.push(getComputedStyle(at).backgroundColor);
  return [getComputedStyle(one).color, ...behind];
})
"""
"""Of each text its colour, and the backgrounds behind it from the nearest to the page's."""


@pytest.fixture(scope="module")
def address(make_run, tmp_path_factory) -> str:
    run_dir = make_run(tmp_path_factory.mktemp("run"), num_steps=3, num_problems=2, group_size=4)
    log(run_dir, 3, mixed_group())
    return write_report(run_dir).as_uri()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    """A group in which every text is hostile, oblique, broken or long."""
    folder = tmp_path_factory.mktemp("hostile")
    group, advantages = mixed_group()
    long, odd = "x" * 10_000, f"{RIGHT_TO_LEFT} 🧮 {LONE_SURROGATE}"
    first, *others = group.group.trajectories
    first = said(
        first, f"{HOSTILE}\n```python\n{HOSTILE}\n```\n{long}", odd, status=ToolStatus.ok, output=HOSTILE + long
    )
    bad = replace(others[0].turns[0], tool_calls=(replace(others[0].turns[0].tool_calls[0], error=HOSTILE + long),))
    others[0] = replace(others[0], turns=(bad, others[0].turns[1]), answer=odd)
    made = scored(
        replace(first, answer=HOSTILE),
        *others,
        correct=group.correct_G,
        question=f"{HOSTILE} {odd} {long}",
        source=HOSTILE,
        terms=group.terms,
        peers=group.shaping_peers_G,
    )
    log(folder / "run", 0, (made, advantages))
    return viewer_page(folder, {HOSTILE: folder / "run", odd: folder / "run"})


@pytest.fixture(scope="module")
def page(browser) -> Iterator[Any]:
    """One tab for all tests; in the end nobody complained and nothing but pages was asked for."""
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    tab.set_default_timeout(20_000)
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda one: complaints.append(one.url) if one.resource_type != "document" else None)
    yield tab
    tab.close()
    assert complaints == []


def opened(page, address: str, width: int = 1200, scheme: str = "light") -> None:
    page.goto("about:blank")
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme, media="screen")
    page.goto(address)
    page.wait_for_selector("#viewer[data-ready]")


def contrast(text: str, *behind: str) -> float:
    """By WCAG 2 between a text and what is behind it, nearest first; what is translucent lets the next one through."""

    def numbers(color: str) -> list[float]:
        return [float(number) for number in re.findall(r"[0-9.]+", color)]

    def luminance(color: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in color)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    mixed = [0.0, 0.0, 0.0]
    for color in reversed(behind):
        *rgb, alpha = [*numbers(color), 1.0][:4]
        mixed = [alpha * own + (1 - alpha) * under for own, under in zip(rgb, mixed, strict=True)]
    dark, light = sorted([luminance(numbers(text)[:3]), luminance(mixed)])
    return (light + 0.05) / (dark + 0.05)


def accessible(page) -> list[tuple[str, str, dict[str, Any]]]:
    """Role, name and properties of everything in Chromium's accessibility tree."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        (
            node["role"]["value"],
            node.get("name", {}).get("value", ""),
            {one["name"]: one["value"].get("value") for one in node.get("properties", [])},
        )
        for node in nodes
        if not node["ignored"]
    ]


def test_every_control_has_a_name_and_the_page_its_landmarks(page, address):
    opened(page, address)
    page.fill("#search", "84")
    page.wait_for_selector("#list a")
    page.locator(".guide summary").click()
    page.locator(".column.chosen summary").first.click()
    page.locator(".column.chosen .tokens").first.wait_for()
    tree = accessible(page)
    controls = {"button", "link", "combobox", "searchbox", "radio", "textbox", "DisclosureTriangle", "image", "table"}
    assert [node for node in tree if node[0] in controls - {"table"} and not node[1].strip()] == []
    assert {"banner", "navigation", "main", "search", "group"} <= {role for role, *_ in tree}
    names = {(role, name) for role, name, _ in tree}
    for node in [
        ("searchbox", "Search in this run"),
        ("combobox", "Outcome"),
        ("combobox", "Credit"),
        ("combobox", "Format"),
        ("combobox", "Tool status"),
        ("combobox", "Stop reason"),
        ("combobox", "Step"),
        ("combobox", "Problem"),
        ("radio", "one at a time"),
        ("button", "Previous"),
        ("button", "Next"),
        ("button", "Copy link"),
        ("button", "Clear"),
        ("link", "Skip to the content"),
        ("list", "Results"),
        ("table", "Advantage of each turn of each sample"),
        ("button", "Sample 1, turn 2: advantage +0.25, reward +0.25, against"),
    ]:
        assert node in names, node


def test_headings_descend_one_level_at_a_time(page, address):
    opened(page, address)
    levels = [properties["level"] for role, _, properties in accessible(page) if role == "heading"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_labels_lead_somewhere(page, address):
    opened(page, address)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("[...document.querySelectorAll('label')].filter(one => !one.control).length") == 0
    links = page.evaluate(
        "[...document.querySelectorAll('nav a, .skip')].map(one => one.getAttribute('href').slice(1))"
    )
    assert set(links) <= set(ids)


def test_the_keyboard_reaches_the_content_first_and_shows_where_it_is(page, address):
    opened(page, address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#copy").focus()
    page.keyboard.press("Tab")  # to the columns
    assert page.evaluate("document.activeElement.id") == "columns"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("width", [320, 400, 1200])
def test_nothing_is_wider_than_the_page(page, address, hostile, width):
    for where in (address, hostile):
        opened(page, where, width)
        page.locator(".guide summary").click()
        for summary in page.locator(".column.chosen summary, #problem-text summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_label("whole group").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_narrow_page_shows_one_trajectory_at_a_time(page, address):
    opened(page, address, 400)
    assert page.get_by_label("one at a time").is_checked()
    assert page.locator(".column:visible").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(page, address, scheme):
    opened(page, address, scheme=scheme)
    page.locator(".column.chosen summary").first.click()
    page.locator(".column.chosen .tokens").first.wait_for()
    found = {tuple(colors) for colors in page.evaluate(COLOURS, TEXTS)}
    assert len(found) > 10
    assert [colors for colors in found if contrast(*colors) < 4.5] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (max(dark) < 60) == (scheme == "dark")


def test_motion_only_where_it_is_welcome(page, address):
    opened(page, address)
    read = "getComputedStyle(document.documentElement).scrollBehavior"
    assert page.evaluate(read) == "smooth"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(read) == "auto"
    page.emulate_media(reduced_motion="no-preference")


def test_paper_gets_the_whole_group_and_no_controls(page, address):
    opened(page, address)
    page.emulate_media(media="print")
    for hidden in ("#filters", ".toolbar", "nav", ".choose", ".skip"):
        assert page.locator(hidden).first.is_hidden(), hidden
    assert page.locator(".column:visible").count() == 4
    boxes = [column.bounding_box() for column in page.locator(".column").all()]
    assert len({box["x"] for box in boxes}) == 1  # one below the other
    page.emulate_media(media="screen")


def test_hostile_text_is_shown_and_does_nothing(page, hostile):
    opened(page, hostile)
    assert page.title() == "Trajectories"
    assert page.locator("img, iframe, object, #columns script").count() == 0
    column = page.locator(".column").nth(0)
    assert column.locator(".message").nth(0).inner_text() == HOSTILE
    assert column.locator("pre code").text_content() == HOSTILE
    assert HOSTILE in column.locator(".column-head").inner_text()
    assert column.locator(".tool pre").text_content() == HOSTILE + "x" * 10_000
    assert column.locator(".message").nth(2).inner_text() == f"{RIGHT_TO_LEFT} 🧮 {LONE_SURROGATE}"
    assert page.evaluate("document.getElementById('run').options[0].textContent") == HOSTILE
    page.fill("#search", "onerror=")
    page.wait_for_selector("#list mark")
    assert page.locator("#list img").count() == 0
    page.locator("#list a").nth(1).click()
    page.wait_for_selector("#sample-1.chosen")
    assert page.title() == "Trajectories"


def test_a_broken_run_still_has_its_page(page, make_run, tmp_path):
    run_dir = make_run(tmp_path, num_steps=3, num_problems=1, group_size=2)
    bundle = run_dir / "groups" / "step_1.jsonl.gz"
    bundle.write_bytes(bundle.read_bytes()[:100])
    bundle = run_dir / "groups" / "step_2.jsonl.gz"
    group = json.loads(gzip.decompress(bundle.read_bytes()))
    group["advantages"][0][0] = "high"
    bundle.write_bytes(gzip.compress(json.dumps(group).encode()))
    (run_dir / "summary.json").write_text("{")
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join([*lines[:3], "not a line\n", *lines[3:]]))
    opened(page, write_report(run_dir).as_uri())
    told = page.locator(".broken").all_inner_texts()
    for part in ("metrics.jsonl, line 4", "summary.json is not the summary of a run"):
        assert part in told[0]
    assert "groups/step_1.jsonl.gz" in told[1]
    assert "groups/step_2.jsonl.gz, line 1: not a whole trajectory bundle" in told[1]
    assert "advantages: expected finite numbers, got ['high'," in told[1]
    assert page.locator("#step option").all_inner_texts() == ["0"]
    assert "summary.json is broken" in page.inner_text(".outcome")


def test_a_browser_that_cannot_unpack_is_told_where_the_trajectories_are(browser, address):
    tab = browser.new_page()
    tab.add_init_script("delete window.DecompressionStream")
    tab.goto(address)
    assert "cannot unpack the trajectories; they lie in groups/" in tab.inner_text("#status")
    tab.close()


def test_without_scripts_the_figures_are_there(browser, address):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(address)
    assert tab.locator("figure svg").count() == 15
    assert "The viewer needs JavaScript" in tab.inner_text("noscript")
    context.close()
