"""Records of evaluations: back as they were written, broken ones named, and which figures a run is judged by."""

import json
from dataclasses import replace

import pytest

from turnwise.tracker.bundle import bundle_path
from turnwise.tracker.evaluations import (
    Difference,
    SetRecord,
    SetResult,
    Share,
    accuracies,
    check_readable,
    counted_accuracies,
    overall_accuracy,
    read_record,
    read_results,
    record_path,
    recorded_steps,
    set_folder,
    write_record,
)

HALF = Share(value=0.5, low=0.25, high=0.75, num_problems=8)
RESULT = SetResult(
    name="toy",
    step=10,
    protocol="00000000ff01",
    num_samples=4,
    shares={"accuracy": HALF, "pass@4": Share(value=1.0, low=0.6, high=1.0, num_problems=8)},
    rates={"num_problems": 8, "tool_use": 0.5},
    by_source={"gcd": HALF},
    by_turns={1: HALF, 3: HALF},
    turn_counts={1: 20, 3: 12},
    tool_gain=Difference(value=0.25, low=0.0, high=0.5, num_problems=8),
)


def write(run_dir, result: SetResult | None, name: str = "toy", step: int = 10) -> None:
    write_record(set_folder(run_dir, name), step, SetRecord(protocol={"a": 1}, weights="w", result=result))


def test_a_record_reads_as_it_was_written(tmp_path):
    write(tmp_path, RESULT)
    record = read_record(set_folder(tmp_path, "toy"), 10)
    assert record == SetRecord(protocol={"a": 1}, weights="w", result=RESULT)


def test_what_a_run_will_compare_with_is_read_before_it_goes_on(tmp_path):
    for step in (0, 10):
        write(tmp_path, replace(RESULT, step=step), step=step)
    folder = set_folder(tmp_path, "toy")
    record_path(folder, 10).write_bytes(b"\xff")
    check_readable(tmp_path, 10)  # which is made anew
    with pytest.raises(ValueError, match=r"step_10\.json is not the record of an evaluation.*; put a copy of the"):
        check_readable(tmp_path, 11)
    bundle_path(folder, 0).parent.mkdir()
    bundle_path(folder, 0).write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"step_0\.jsonl\.gz: not a whole trajectory bundle"):
        check_readable(tmp_path, 10)


def test_results_are_those_that_are_finished_in_order(tmp_path):
    for step in (100, 20, 3):
        write(tmp_path, replace(RESULT, step=step), step=step)
    write(tmp_path, None, step=200)
    write(tmp_path, replace(RESULT, name="a"), name="a")
    assert [(result.name, result.step) for result in read_results(tmp_path)] == [
        ("a", 10),
        ("toy", 3),
        ("toy", 20),
        ("toy", 100),
    ]
    assert recorded_steps(set_folder(tmp_path, "toy")) == [3, 20, 100, 200]
    assert list(read_results(tmp_path / "nothing")) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"protocol": {}, "weights": "", "result": {"name": "x"}}'])
def test_a_broken_record_is_named(tmp_path, content):
    write(tmp_path, RESULT)
    path = record_path(set_folder(tmp_path, "toy"), 10)
    path.write_text(content)
    with pytest.raises(ValueError, match=r"step_10\.json is not the record of an evaluation"):
        list(read_results(tmp_path))


def test_figures_by_name():
    assert RESULT.metrics() == {
        "eval/toy/accuracy": 0.5,
        "eval/toy/accuracy_low": 0.25,
        "eval/toy/accuracy_high": 0.75,
        "eval/toy/pass@4": 1.0,
        "eval/toy/pass@4_low": 0.6,
        "eval/toy/pass@4_high": 1.0,
        "eval/toy/num_problems": 8,
        "eval/toy/tool_use": 0.5,
        "eval/toy/accuracy_at_turns/1": 0.5,
        "eval/toy/accuracy_at_turns/3": 0.5,
        "eval/toy/accuracy/gcd": 0.5,
        "eval/toy/tool_gain": 0.25,
        "eval/toy/tool_gain_low": 0.0,
        "eval/toy/tool_gain_high": 0.5,
        "eval/toy/protocol": 0xFF01,
    }


def test_the_largest_hash_is_a_number_that_json_holds_exactly():
    number = replace(RESULT, protocol="f" * 12).metrics()["eval/toy/protocol"]
    assert int(float(json.loads(json.dumps(number)))) == 16**12 - 1


def test_a_run_is_judged_by_the_sets_with_the_tool():
    metrics = {
        "eval/a/accuracy": 0.5,
        "eval/a/accuracy/gcd": 0.1,
        "eval/a/accuracy_low": 0.2,
        "eval/b/accuracy": 0.7,
        "eval/a_without_tool/accuracy": 0.0,
        "eval/c/accuracy": None,
        "rollout/accuracy": 0.9,
    }
    assert accuracies(metrics) == {"a": 0.5, "b": 0.7, "a_without_tool": 0.0, "c": None}
    assert counted_accuracies(metrics) == {"a": 0.5, "b": 0.7}
    assert overall_accuracy(metrics) == pytest.approx(0.6)


def test_without_any_set_with_the_tool_the_others_count():
    assert overall_accuracy({"eval/a_without_tool/accuracy": 0.25}) == 0.25
    assert overall_accuracy({"rollout/accuracy": 0.25}) is None
