import re

import pytest

from turnwise.study.drawing.lines import Lines
from turnwise.study.drawing.panel import Point
from turnwise.study.drawing.render import LIGHT, draw_panel, printed, shown, strokes
from turnwise.study.drawing.rows import Bars, Map, Rows

ARMS = ["grpo", "base", "gtpo"]
POINTS = [Point(x=0.0, value=0.25, low=0.2, high=0.3, seeds=(0.2, 0.3)), Point(x=1.0, value=0.5)]
PANELS = [
    Lines(x_label="step", y_label="accuracy", lines={"grpo": POINTS, "gtpo": POINTS}, is_band=True, names_lines=True),
    Lines(x_label="turn", y_label="reward", lines={"grpo": POINTS}, has_zero=True, joined=[["grpo"]]),
    Rows(x_label="points", rows={"gtpo": {"": POINTS[0]}}, zero="base", is_wide=True),
    Rows(x_label="points", rows={"gtpo": {"without": POINTS[0], "with": POINTS[1]}}),
    Bars(x_label="seconds", bars={"gtpo": {"tools": 1.0, "update": 2.0}}),
    Map(x_label="gamma", y_label="pool", cells={("1", "group"): ("gtpo", POINTS[0])}, bounds=(0.0, 1.0)),
]


def test_the_baseline_is_ink_and_no_two_arms_look_alike():
    arms = ["base", *map(str, range(19))]
    found = strokes(arms, "base", LIGHT)
    assert found["base"].color == LIGHT[0]
    assert LIGHT[0] not in {found[arm].color for arm in arms[1:]}
    assert len({(one.color, str(one.dash)) for one in found.values()}) == 20


def test_an_arm_keeps_its_colour_when_the_baseline_is_another_place_of_the_plan():
    assert [one.place for one in strokes(ARMS, "base", LIGHT).values()] == [0, 1, 2]
    assert [one.color for one in printed(ARMS, "base").strokes.values()] == [LIGHT[1], LIGHT[0], LIGHT[2]]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: type(panel).__name__)
def test_a_drawing_for_the_page_has_its_colours_and_names_its_arms(panel):
    drawing = draw_panel(panel, shown(ARMS, "base"), "salt")
    assert drawing.svg.startswith("<svg")
    colours = set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r"url\(#[^)]*\)|href=\"#[^\"]*\"", "", drawing.svg)))
    assert colours == set() or isinstance(panel, Map)
    assert set(re.findall(r'data-arm="(\d+)"', drawing.svg)) == {str(place) for place, *_ in drawing.marks}
    assert "<image" not in drawing.svg


def test_marks_lie_where_the_drawing_has_them():
    drawing = draw_panel(PANELS[1], shown(ARMS, "base"), "salt")
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing.svg)[0])
    placed = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', drawing.svg.split('data-arm="0"')[-1])
    found = [(round(float(x), 1), round(float(y), 1)) for x, y in placed]
    assert [(x, y) for _, _, x, y, _ in drawing.marks] == found
    assert all(0 < x < width and 0 < y < height for x, y in found)


def test_rows_are_told_where_they_lie_and_what_is_moved_with_them():
    rows = {arm: {"": POINTS[0]} for arm in ARMS}
    drawing = draw_panel(Rows(x_label="points", rows=rows, zero="base"), shown(ARMS, "base"), "salt")
    assert drawing.rows is not None
    places, top, pitch = drawing.rows
    assert places == [0, 1, 2]
    assert [y for *_, y, _ in drawing.marks] == pytest.approx([top + pitch * (row + 0.5) for row in range(3)], abs=0.1)
    parts = re.findall(r'data-part="(\w+)"', drawing.svg)
    assert sorted(parts) == ["axis", "foot", "span"]  # the axis, its line, and the line at 0
    assert draw_panel(PANELS[0], shown(ARMS, "base"), "salt").rows is None


def test_a_line_between_two_arms_names_both():
    lines = {"grpo": POINTS[:1], "gtpo": POINTS[1:]}
    panel = Lines(x_label="gamma", y_label="", lines=lines, joined=[["grpo", "gtpo"]])
    assert re.findall(r'data-arms="([^"]+)"', draw_panel(panel, shown(ARMS, "base"), "salt").svg) == ["0 2"]


def test_drawings_of_one_page_do_not_share_names():
    first, second = (
        set(re.findall(r' id="([^"]+)"', draw_panel(PANELS[0], shown(ARMS, "base"), salt).svg)) for salt in "ab"
    )
    assert first
    assert not first & second
