import json
import logging

import pytest

from builders import group, trajectory
from turnwise.tracker.bundle import read_groups
from turnwise.tracker.external import DispensableTracker, beside_files, keep_run_id, kept_run_id
from turnwise.types import ScoredGroup

SCORED = ScoredGroup(group=group(trajectory()), turn_rewards_GK=((0.0, 1.0),), terms={}, correct_G=(True,))


class Failing:
    """A tracker whose named calls raise; remembers the names of all calls."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.calls: list[str] = []

    def log(self, metrics, step):
        self._called("log")

    def log_groups(self, groups, returns, advantages, step):
        self._called("log_groups")

    def close(self):
        self._called("close")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise RuntimeError(f"{name}: no such server\nnor another")


def run_two_steps(tracker) -> None:
    for step in (0, 1):
        tracker.log_groups([SCORED], [[[1.0, 1.0]]], [[[0.5, -0.5]]], step)
        tracker.log({"a/x": 1.0}, step)
    tracker.close()


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_whole_tracker_gets_everything(caplog):
    whole = Failing()
    run_two_steps(DispensableTracker("echo", whole))
    assert whole.calls == ["log_groups", "log", "log_groups", "log", "close"]
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("failing", "calls"),
    [
        (("log",), ["log_groups", "log", "close"]),
        (("log_groups",), ["log_groups", "close"]),
        (("close",), ["log_groups", "log", "log_groups", "log", "close", "close"]),
        (("log", "close"), ["log_groups", "log", "close"]),
    ],
)
def test_one_that_fails_is_left_out_after_one_warning_and_the_files_go_on(tmp_path, caplog, failing, calls):
    external = Failing(*failing)
    run_two_steps(beside_files("echo", lambda: external, tmp_path, 0, 1))
    assert external.calls == calls
    reason = f"RuntimeError: {failing[0]}: no such server nor another"
    assert warnings(caplog) == [f"warning: tracker=echo is lost; the run goes on without it ({reason})"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 0, "a/x": 1.0}, {"step": 1, "a/x": 1.0}]
    assert read_groups(tmp_path / "groups" / "step_1.jsonl.gz") == [(SCORED, [[0.5, -0.5]])]


def test_a_long_error_is_cut(caplog):
    class Wordy(Failing):
        def log(self, metrics, step):
            raise RuntimeError("word " * 1000)

    DispensableTracker("echo", Wordy()).log({}, 0)
    (warning,) = warnings(caplog)
    assert len(warning) < 400
    assert warning.endswith("word ...)")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_whoever_stops_the_run_is_not_kept_from_it(stop):
    class Stopped(Failing):
        def log(self, metrics, step):
            raise stop

    with pytest.raises(stop):
        DispensableTracker("echo", Stopped()).log({}, 0)


def test_an_error_of_the_runs_own_files_is_an_error(tmp_path):
    tracker = beside_files("echo", Failing, tmp_path, 0, 1)
    (tmp_path / "groups").rmdir()
    with pytest.raises(FileNotFoundError, match="groups"):
        tracker.log_groups([SCORED], [[[1.0, 1.0]]], [[[0.5, -0.5]]], 0)
    tracker.close()


def test_one_that_does_not_start_is_refused_before_a_file_is_touched(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n')

    def refuse():
        raise RuntimeError("no server at 10.0.0.1")

    with pytest.raises(ValueError, match=r"^tracker=echo cannot start: no server at 10\.0\.0\.1$"):
        beside_files("echo", refuse, tmp_path, 0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 5}\n'


def test_it_is_closed_when_the_files_do_not_open(tmp_path):
    (tmp_path / "groups").write_text("in the way")
    external = Failing()
    with pytest.raises(FileExistsError):
        beside_files("echo", lambda: external, tmp_path, 0, 1)
    assert external.calls == ["close"]


def test_the_id_of_a_run_is_kept_for_those_that_go_on(tmp_path):
    id_file = tmp_path / "echo" / "run_id"
    assert kept_run_id(id_file, 3) is None
    keep_run_id(id_file, "abc")
    assert kept_run_id(id_file, 3) == "abc"
    assert kept_run_id(id_file, 0) is None
