import json
import math

import pytest

from builders import group, trajectory
from turnwise.tracker.bundle import read_groups
from turnwise.tracker.files import Files, FilesTracker, read_metrics
from turnwise.types import ScoredGroup


def lines(run_dir):
    return (run_dir / "metrics.jsonl").read_text().splitlines()


def scored_group() -> ScoredGroup:
    return ScoredGroup(group=group(trajectory()), turn_rewards_GK=((0.0, 1.0),), terms={}, correct_G=(True,))


def run_steps(run_dir, first, last):
    """A deterministic stand-in for a training run."""
    tracker = FilesTracker(run_dir, first)
    for step in range(first, last):
        if step % 2 == 0:
            tracker.log({"eval/arithmetic/accuracy": step / 7}, step)
        tracker.log_groups([scored_group()], [[[step / 3, -1.0]]], [[[step / 3, -1.0]]], step)
        tracker.log({"rollout/accuracy": step / 3, "loss/value": -step / 9}, step)
    tracker.close()


def test_step_comes_first_and_keys_keep_their_order(tmp_path):
    tracker = FilesTracker(tmp_path)
    tracker.log({"b/x": 2, "a/y": 0.1}, 7)
    tracker.close()
    assert lines(tmp_path) == ['{"step": 7, "b/x": 2, "a/y": 0.1}']


def test_each_line_is_there_before_close(tmp_path):
    tracker = FilesTracker(tmp_path)
    tracker.log({"a/x": 1.0}, 0)
    assert lines(tmp_path) == ['{"step": 0, "a/x": 1.0}']
    tracker.close()


def test_numbers_that_are_not_finite_become_null(tmp_path):
    tracker = FilesTracker(tmp_path)
    tracker.log({"a/nan": math.nan, "a/inf": math.inf, "a/minus": -math.inf, "a/int": 3}, 0)
    tracker.close()
    assert json.loads(lines(tmp_path)[0]) == {
        "step": 0,
        "a/nan": None,
        "a/inf": None,
        "a/minus": None,
        "a/int": 3,
    }
    assert not any(word in lines(tmp_path)[0] for word in ("NaN", "Infinity"))


def test_resumed_run_leaves_the_same_files_as_an_uninterrupted_one(tmp_path):
    run_steps(tmp_path / "whole", 0, 12)
    run_steps(tmp_path / "cut", 0, 11)  # got past the checkpoint at step 6 before it was killed
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "rollout/accu')  # torn in the middle of a line
    run_steps(tmp_path / "cut", 6, 12)

    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    whole, cut = ({p.name: p.read_bytes() for p in (tmp_path / run / "groups").iterdir()} for run in ("whole", "cut"))
    assert cut == whole


def test_resuming_drops_later_steps_at_once(tmp_path):
    run_steps(tmp_path, 0, 5)
    FilesTracker(tmp_path, first_step=2).close()
    assert [json.loads(line)["step"] for line in lines(tmp_path)] == [0, 0, 1]
    assert sorted(path.name for path in (tmp_path / "groups").iterdir()) == ["step_0.jsonl.gz", "step_1.jsonl.gz"]


def test_a_fresh_start_in_a_used_folder_begins_empty(tmp_path):
    run_steps(tmp_path, 0, 3)
    FilesTracker(tmp_path).close()
    assert lines(tmp_path) == []
    assert list((tmp_path / "groups").iterdir()) == []


def test_a_broken_line_in_the_middle_is_an_error_with_its_place(tmp_path):
    run_steps(tmp_path, 0, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"step": 0, "rollout', '{"step": , "rollout'))
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: .*rollout/accuracy"):
        list(read_metrics(tmp_path))


@pytest.mark.parametrize("value", ['"abc"', "[0.5]", "{}"])
def test_a_figure_that_is_no_number_is_an_error_with_its_place(tmp_path, value):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 0, "a/x": null}}\n{{"step": 1, "a/x": {value}}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: a/x=.*: expected a number or null"):
        list(read_metrics(tmp_path))


@pytest.mark.parametrize("line", ["[]", "3", "{}", '{"step": null}', '{"step": "0"}'])
def test_a_line_without_a_step_is_an_error(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: not a line of figures with a step"):
        list(read_metrics(tmp_path))


def test_read_metrics_of_a_folder_without_any(tmp_path):
    assert list(read_metrics(tmp_path)) == []


def test_groups_are_written_when_due(tmp_path):
    tracker = Files(save_groups_every=3).start(tmp_path, first_step=0, label="gtpo", config={})
    for step in range(7):
        tracker.log_groups([scored_group()], [[[float(step), 0.0]]], [[[float(step), 0.0]]], step)
    tracker.close()
    assert sorted(path.name for path in (tmp_path / "groups").iterdir()) == [
        f"step_{step}.jsonl.gz" for step in (0, 3, 6)
    ]
    assert read_groups(tmp_path / "groups" / "step_3.jsonl.gz") == [(scored_group(), [[3.0, 0.0]])]


def test_zero_keeps_no_groups(tmp_path):
    tracker = Files(save_groups_every=0).start(tmp_path, first_step=0, label="gtpo", config={})
    tracker.log_groups([scored_group()], [[[0.0, 0.0]]], [[[0.0, 0.0]]], 0)
    tracker.close()
    assert list((tmp_path / "groups").iterdir()) == []


def test_close_twice(tmp_path):
    tracker = FilesTracker(tmp_path)
    tracker.close()
    tracker.close()


def test_refuses_a_negative_period():
    with pytest.raises(ValueError, match=r"save_groups_every=-1: expected >= 0"):
        Files(save_groups_every=-1)
