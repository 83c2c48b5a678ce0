import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from turnwise.report.curves import Curve, training_curves, turn_curve
from turnwise.tracker.files import read_metrics

STEPS = [{"step": float(step), "rollout/accuracy": 0.1 * step} for step in range(5)]


@pytest.fixture(scope="module")
def curves(make_run, tmp_path_factory) -> list[Curve]:
    run_dir = make_run(tmp_path_factory.mktemp("run"), num_steps=6, num_problems=1, group_size=2)
    return training_curves(list(read_metrics(run_dir)))


def points(svg: str, variable: str) -> list[list[tuple[float, float]]]:
    """The corners of each line that is drawn in one of the page's colours."""
    paths = re.findall(rf'd="([^"]*)"[^>]*stroke: var\({variable}\)', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)] for path in paths]


def test_every_kind_of_figure_is_drawn_from_a_whole_run(curves):
    titles = [curve.title for curve in curves]
    assert titles == [
        "Accuracy",
        "Reward",
        "Turns",
        "Tool outcomes",
        "Stop reasons",
        "Groups without signal",
        "Loss",
        "Entropy",
        "Gradient norm",
        "Mismatch",
        "Throughput",
        "Seconds per step",
    ]


def test_what_was_not_logged_is_not_drawn():
    assert training_curves([]) == []
    assert [curve.title for curve in training_curves(STEPS)] == ["Accuracy"]
    assert [curve.title for curve in training_curves([{"step": 0.0, "tool/calls": 1.5, "tool/ok": 0.0}])] == []


def test_a_line_goes_through_its_values():
    (curve,) = training_curves(STEPS)
    (line,) = points(curve.svg, "--c1")
    xs, ys = zip(*line, strict=True)
    assert len(line) == 5
    gaps = [b - a for a, b in pairwise(xs)]
    rises = [a - b for a, b in pairwise(ys)]  # y grows downwards in SVG
    assert max(gaps) - min(gaps) < 1e-3
    assert max(rises) - min(rises) < 1e-3
    assert min(rises) > 0


def test_a_value_that_was_not_finite_leaves_a_gap():
    lines = [*STEPS[:2], {"step": 2.0, "rollout/accuracy": None}, *STEPS[3:]]
    (curve,) = training_curves(lines)
    (path,) = re.findall(r'd="([^"]*)"[^>]*stroke: var\(--c1\)', curve.svg)
    assert path.count("M") == 2


def test_a_value_without_a_neighbour_is_a_dot():
    dots = re.compile(r'<use [^>]*style="fill: var\(--c1\)')
    lines = [*STEPS[:2], {"step": 2.0, "rollout/accuracy": None}, STEPS[3], {"step": 4.0, "rollout/accuracy": None}]
    for shown, num_dots in ((lines, 1), (STEPS[:1], 1), (STEPS, 0)):
        (curve,) = training_curves(shown)
        assert len(dots.findall(curve.svg)) == num_dots


def test_shares_of_a_single_step_are_a_bar():
    (curve,) = training_curves([{"step": 3.0, "tool/ok": 0.75, "tool/timeout": 0.25}])
    areas = re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--c[13]\)', curve.svg)
    widths = [max(xs) - min(xs) for path in areas if (xs := [float(x) for x in re.findall(r"[ML] (\S+)", path)])]
    assert len(widths) == 2
    assert min(widths) > 100


def test_held_out_accuracy_stands_beside_training():
    evaluations = [{"step": 0.0, "eval/sums/accuracy": 0.25}, {"step": 5.0, "eval/sums/accuracy": 0.75}]
    (curve,) = training_curves([evaluations[0], *STEPS, evaluations[1]])
    assert list(curve.legend) == [("training", "--c1"), ("held-out: sums", "--c2")]
    assert any(len(line) == 2 for line in points(curve.svg, "--c2"))


def test_a_status_keeps_its_colour_whichever_others_occur():
    lines = [{"step": 0.0, "tool/ok": 0.5, "tool/timeout": 0.5}, {"step": 1.0, "tool/ok": 1.0, "tool/timeout": 0.0}]
    (curve,) = training_curves(lines)
    assert list(curve.legend) == [("ok", "--c1"), ("timeout", "--c3")]  # first and third of ToolStatus


def test_drawings_are_well_formed_and_take_their_colours_from_the_page(curves):
    for curve in curves:
        ElementTree.fromstring(curve.svg)
        assert re.findall(r"(?:fill|stroke|color): #\w+", curve.svg) == []
        assert "font-family" not in curve.svg
        assert "<style" not in curve.svg


def test_the_same_figures_give_the_same_drawing():
    series = {"step 0": ([1, 2], [0.5, -0.5]), "step 9": ([1], [0.25])}
    first, second = (turn_curve("Advantage by turn", "", series) for _ in range(2))
    assert first == second
    assert list(first.legend) == [("step 0", "--c1"), ("step 9", "--c2")]


def test_figures_by_turn_are_drawn_turn_by_turn():
    lines = [{"step": float(step), "return/turn_1": 0.5, "return/turn_2": 0.1 * step} for step in range(3)]
    (curve,) = training_curves(lines)
    assert curve.title == "Return by turn, over the steps"
    assert [label for label, _ in curve.legend] == ["turn 1", "turn 2"]
    (flat,), (rising,) = (points(curve.svg, variable) for variable in ("--c1", "--c2"))
    assert len({y for _, y in flat}) == 1
    assert len({y for _, y in rising}) == 3


def test_groups_without_shaping_get_a_line_where_shaping_made_a_difference():
    shaped, unshaped = "reward/zero_variance_groups", "reward/zero_variance_groups_unshaped"
    same = [{"step": 0.0, shaped: 0.25, unshaped: 0.25}]
    informed = [*same, {"step": 1.0, shaped: 0.25, unshaped: 0.5}]
    for lines, labels in ((same, ["one reward"]), (informed, ["one reward", "one reward, without shaping"])):
        (curve,) = training_curves(lines)
        assert curve.title == "Groups without signal"
        assert [label for label, _ in curve.legend] == labels


def test_what_rescoring_changed_is_drawn():
    (curve,) = training_curves([{"step": 0.0, "rescore/sign_flips": 0.1, "rescore/from_zero": 0.2}])
    assert curve.title == "Changed by rescoring"
    assert [label for label, _ in curve.legend] == ["flipped", "came from 0"]
