import json
import math

import pytest

from turnwise.report.summary import Outcome, accuracy_changes, read_summary, summarise_run, write_summary
from turnwise.tracker.files import FilesTracker


def log(run_dir, *lines):
    tracker = FilesTracker(run_dir)
    for step, figures in lines:
        tracker.log(figures, step)
    tracker.close()


def evaluation(accuracy: float, **families: float) -> dict[str, float]:
    return {"eval/sums/accuracy": accuracy} | {f"eval/sums/accuracy/{name}": value for name, value in families.items()}


def summarise(run_dir):
    return summarise_run(run_dir, outcome=Outcome.finished, why="", wall_s=2.5)


def test_first_best_and_last_evaluation(tmp_path):
    log(
        tmp_path,
        (0, evaluation(0.25)),
        (0, {"loss/value": 1.0}),
        (1, evaluation(0.75)),
        (1, {"loss/value": 1.0}),
        (2, evaluation(0.75)),
        (2, {"loss/value": 1.0}),
        (3, evaluation(0.5)),
    )
    summary = summarise(tmp_path)
    assert summary.total_steps == 3  # steps 0, 1 and 2 logged figures of their own; 3 is only evaluated
    assert summary.initial is not None
    assert summary.best is not None
    assert summary.final is not None
    assert (summary.initial.step, summary.initial.accuracy) == (0, 0.25)
    assert (summary.best.step, summary.best.accuracy) == (1, 0.75)  # the earliest of equals
    assert (summary.final.step, summary.final.accuracy) == (3, 0.5)


@pytest.mark.parametrize(
    ("starts", "isolation"),
    [
        ([], None),
        ([{"isolation": None}], None),
        ([{"isolation": "A"}], "A"),
        ([{"isolation": "A"}, {"isolation": "unsafe"}, {"isolation": "B"}, {}], "unsafe"),
    ],
)
def test_the_least_isolation_of_all_starts_counts(tmp_path, starts, isolation):
    log(tmp_path, (0, evaluation(0.25)))
    assert summarise(tmp_path).isolation is None
    (tmp_path / "config.json").write_text(json.dumps({"starts": starts}))
    write_summary(tmp_path, summarise(tmp_path))
    assert read_summary(tmp_path).isolation == isolation


def test_several_tasks_count_alike(tmp_path):
    log(tmp_path, (0, {"eval/a/accuracy": 0.25, "eval/b/accuracy": 0.75, "eval/b/accuracy/x": 0.0}))
    summary = summarise(tmp_path)
    assert summary.final is not None
    assert summary.final.accuracy == 0.5  # (0.25 + 0.75) / 2; a family is no task


def test_a_run_that_logged_nothing(tmp_path):
    summary = summarise(tmp_path)
    assert (summary.total_steps, summary.initial, summary.best, summary.final) == (0, None, None, None)
    assert accuracy_changes(summary) == []


def test_an_accuracy_that_is_not_finite_is_no_evaluation(tmp_path):
    log(tmp_path, (0, evaluation(math.nan)))
    assert summarise(tmp_path).final is None


def test_reading_gives_back_what_was_written(tmp_path):
    log(tmp_path, (0, evaluation(1 / 3, gcd=0.1)), (0, {"loss/value": 1.0}))
    summary = summarise_run(tmp_path, outcome=Outcome.failed, why="ValueError: x", wall_s=0.1 + 0.2)
    write_summary(tmp_path, summary)
    assert read_summary(tmp_path) == summary
    assert json.loads((tmp_path / "summary.json").read_text())["outcome"] == "failed"


@pytest.mark.parametrize("content", ["", "[]", '{"outcome": "finished"}', '{"outcome": "lost"}'])
def test_another_file_is_named(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ValueError, match=r"summary\.json is not the summary of a run"):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final": {"step": 0, "accuracy": 0.5, "metrics": None}}, "metrics=None: expected figures by name"),
        ({"final": {"step": 0, "accuracy": None, "metrics": {}}}, "accuracy=None: expected a number"),
        ({"best": {"step": "0", "accuracy": 0.5, "metrics": {}}}, "step='0': expected a number"),
        ({"initial": {"step": 0, "accuracy": 0.5, "metrics": {"eval/x": "a"}}}, "eval/x='a': expected a number"),
        ({"total_steps": None}, "total_steps=None"),
        ({"wall_s": "long"}, "wall_s='long'"),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path, change, message):
    log(tmp_path, (0, evaluation(0.25)))
    write_summary(tmp_path, summarise(tmp_path))
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"summary\.json is not the summary of a run: .*{message}"):
        read_summary(tmp_path)


def test_a_figure_that_was_not_finite_is_read_back_as_none(tmp_path):
    log(tmp_path, (0, evaluation(0.25) | {"eval/sums/length": math.nan}))
    write_summary(tmp_path, summarise(tmp_path))
    read = read_summary(tmp_path)
    assert read.final is not None
    assert read.final.metrics["eval/sums/length"] is None


def test_changes_list_a_task_and_then_its_families(tmp_path):
    log(tmp_path, (0, evaluation(0.25, gcd=0.5)), (5, evaluation(0.75, gcd=0.375, primes=1.0)))
    changes = accuracy_changes(summarise(tmp_path))
    assert [(change.name, change.is_family, change.start, change.end, change.points) for change in changes] == [
        ("sums", False, 0.25, 0.75, 50.0),
        ("gcd", True, 0.5, 0.375, -12.5),
        ("primes", True, None, 1.0, None),  # not measured at the start
    ]


def test_of_a_single_evaluation_the_end_is_not_known(tmp_path):
    log(tmp_path, (0, evaluation(0.25, gcd=0.5)))
    changes = accuracy_changes(summarise(tmp_path))
    assert [(change.name, change.start, change.end, change.points) for change in changes] == [
        ("sums", 0.25, None, None),
        ("gcd", 0.5, None, None),
    ]
