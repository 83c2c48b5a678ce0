import math
import os
import subprocess
import sys

import pytest

from turnwise.tracker.external import DispensableTracker
from turnwise.tracker.tensorboard import TensorBoard, TensorBoardTracker

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")


def read(run_dir):
    """The event files as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return events


def points(run_dir, name: str) -> dict[int, float]:
    scalars = read(run_dir).Scalars(name)
    assert len({point.step for point in scalars}) == len(scalars)
    return {point.step: point.value for point in scalars}


def run_steps(run_dir, first, last, scale=1.0):
    tracker = TensorBoard().start(run_dir, first_step=first, label="gtpo", config={"seed": 3, "loss": {"eps": 0.2}})
    for step in range(first, last):
        tracker.log({"rollout/accuracy": scale * step, "eval/a/pass@4": 0.5}, step)
        tracker.log_groups([], [], [], step)
    tracker.close()
    tracker.close()


def test_figures_and_configuration_read_back(tmp_path):
    run_steps(tmp_path, 0, 3)
    assert points(tmp_path, "rollout/accuracy") == {0: 0.0, 1: 1.0, 2: 2.0}
    assert points(tmp_path, "eval/a/pass@4") == {0: 0.5, 1: 0.5, 2: 0.5}
    events = read(tmp_path)
    (text,) = events.Tensors("config/text_summary")
    assert '"eps": 0.2' in text.tensor_proto.string_val[0].decode()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3  # the run's own files are there as well


def test_points_are_there_before_close_and_need_not_be_finite(tmp_path):
    tracker = TensorBoardTracker(tmp_path, 0, {})
    tracker.log({"a/x": math.nan, "a/y": -math.inf, "a/n": 3}, 7)
    assert math.isnan(points(tmp_path, "a/x")[7])
    assert points(tmp_path, "a/y") == {7: -math.inf}
    assert points(tmp_path, "a/n") == {7: 3.0}
    tracker.close()


def test_a_resumed_run_shows_no_point_of_the_steps_that_were_dropped(tmp_path):
    run_steps(tmp_path, 0, 6)
    run_steps(tmp_path, 4, 5, scale=10.0)  # of steps 4 and 5 only the first is made anew so far
    assert points(tmp_path, "rollout/accuracy") == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0}


def test_a_fresh_start_in_a_used_folder_shows_nothing_earlier(tmp_path):
    run_steps(tmp_path, 0, 3)
    run_steps(tmp_path, 0, 1, scale=10.0)
    assert points(tmp_path, "rollout/accuracy") == {0: 0.0}


def test_a_folder_that_cannot_be_made_is_refused_with_its_name(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(ValueError, match=r"tracker=tensorboard cannot start: .*/tensorboard"):
        TensorBoard().start(tmp_path, first_step=0, label="gtpo", config={})
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    message = (
        r"^tracker=tensorboard cannot start: it needs tensorboard: pip install '\.\[tensorboard\]' in the repository$"
    )
    with pytest.raises(ValueError, match=message):
        TensorBoard().start(tmp_path, first_step=0, label="gtpo", config={})
    assert list(tmp_path.iterdir()) == []


# The thread that writes tells of its error in its own way, too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a disk to fill")
def test_a_full_disk_costs_the_tracker_and_not_the_run(tmp_path, caplog):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.decode().strip()}")
    try:
        tracker = DispensableTracker("tensorboard", TensorBoardTracker(tmp_path, 0, {}))
        tracker.log({"a/x": 1.0}, 0)
        (tmp_path / "filler").write_bytes(bytes(48 * 1024))
        for step in range(1, 2000):
            tracker.log({"a/x": 1.0}, step)
        tracker.close()
        (warning,) = [record.getMessage() for record in caplog.records]
        assert warning.startswith("warning: tracker=tensorboard is lost; the run goes on without it (OSError: ")
        assert "No space left on device" in warning
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"save_groups_every=-2: expected >= 0"):
        TensorBoard(save_groups_every=-2)
