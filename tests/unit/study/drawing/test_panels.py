import math

import pytest

from turnwise.study.drawing.lines import Lines, spread
from turnwise.study.drawing.panel import NUMBER, POINTS, SHARE, Point, limits
from turnwise.study.drawing.rows import Bars, Map, Rows


@pytest.mark.parametrize(
    ("form", "value", "cell", "tick"),
    [
        (SHARE, 0.525, "52.5%", "52.5%"),
        (SHARE, 0.0, "0.0%", "0%"),
        (POINTS, -1.25, "−1.2", "−1.25"),
        (POINTS, 0.0, "+0.0", "0"),
        (NUMBER, 0.30000000000000004, "0.30", "0.3"),
    ],
)
def test_numbers_are_written_as_people_read_them(form, value, cell, tick):
    assert (form.text(value), form.tick(value)) == (cell, tick)


def test_a_point_says_its_interval_if_it_has_one():
    assert Point(value=0.5, low=0.25, high=0.75).text(SHARE) == "50.0% (25.0% to 75.0%)"
    assert Point(value=0.5).text(SHARE) == "50.0%"
    assert Point(value=0.5).ends == (0.5, 0.5)


def test_limits_hold_intervals_seeds_and_what_they_are_told():
    points = [Point(value=1.0, low=0.5, high=2.0), Point(value=1.0, seeds=(3.0, 1.5))]
    assert limits(points) == pytest.approx((0.5 - 0.125, 3.0 + 0.125))
    assert limits(points, 0.0) == pytest.approx((-0.15, 3.15))
    assert limits([]) is None


def test_names_keep_their_distance():
    assert spread([0.0, 5.0], gap=1.0) == [0.0, 5.0]
    assert spread([1.0, 1.0], gap=1.0) == [0.5, 1.5]
    # 0 and 0.1 move to -0.45 and 0.55, which pushes 1.0: all three about their middle, 1.1 / 3
    assert spread([0.0, 0.1, 1.0], gap=1.0) == pytest.approx([1.1 / 3 - 1, 1.1 / 3, 1.1 / 3 + 1])
    assert spread([], gap=1.0) == []


def test_lines_side_by_side_keep_their_place_in_table_and_marks():
    lines = {"a": [Point(x=1.0, value=0.5), Point(x=2.0, value=0.25)], "b": [Point(x=2.0, value=1.0)]}
    panel = Lines(x_label="turn", y_label="reward", lines=lines, ticks={1.0: "one", 2.0: "two"})
    assert panel.table() == [["turn", "a", "b"], ["one", "0.50", ""], ["two", "0.25", "1.00"]]
    marks = list(panel.marks())
    # two arms share 28% of the gap of 1: a quarter of that to either side
    assert [mark.column for mark in marks] == ["one", "two", "two"]
    assert [mark.x for mark in marks] == pytest.approx([0.93, 1.93, 2.07])


def test_a_band_is_not_moved():
    panel = Lines(x_label="step", y_label="", lines={"a": [Point(x=3.0, value=1.0)]}, is_band=True)
    assert [(mark.column, mark.x) for mark in panel.marks()] == [("3", 3.0)]


def test_rows_give_their_seeds_in_the_table():
    rows = {"a": {"final": Point(value=1.0, low=0.5, high=1.5, seeds=(0.9, 1.1))}, "b": {"final": Point(value=2.0)}}
    panel = Rows(x_label="points", rows=rows, form=POINTS)
    assert panel.table() == [
        ["arm", "final", "seeds: final"],
        ["a", "+1.0 (+0.5 to +1.5)", "+0.9 +1.1"],
        ["b", "+2.0", ""],
    ]
    assert [(mark.arm, mark.x, mark.y) for mark in panel.marks()] == [("a", 1.0, 0.0), ("b", 2.0, 1.0)]


def test_bars_add_up():
    panel = Bars(x_label="seconds", bars={"a": {"tools": 0.5, "update": 1.0}})
    assert panel.table() == [["arm", "tools", "update", "in all"], ["a", "0.50 s", "1.00 s", "1.50 s"]]
    assert [mark.x for mark in panel.marks()] == [0.25, 1.0]


def test_a_map_has_gaps_where_no_arm_is():
    cells = {("0.9", "group"): ("a", Point(value=0.5)), ("1", "turn"): ("b", Point(value=0.75))}
    panel = Map(x_label="gamma", y_label="pool", cells=cells, bounds=(0.5, 0.75))
    assert panel.table() == [["pool \\ gamma", "0.9", "1"], ["group", "50.0%", ""], ["turn", "", "75.0%"]]
    assert [(mark.arm, mark.x, mark.y) for mark in panel.marks()] == [("a", 0, 0), ("b", 1, 1)]


def test_no_number_is_not_a_number():
    assert not any(math.isnan(end) for end in Point(value=1.0).ends)
