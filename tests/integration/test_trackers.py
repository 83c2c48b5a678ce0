"""Whole runs with a tracker beside their own files: it shows what these say, and losing it stops nothing."""

from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from integration_runs import IN_PROCESS, Run, assert_same_run, lines
from turnwise.config.errors import ConfigError
from turnwise.report.summary import Outcome, read_summary
from turnwise.tracker.wandb import WandbTracker

Points = Mapping[str, list[tuple[int, float]]]
"""Step and value of each point of a figure, by its name."""


def own_points(run_dir: Path) -> Points:
    """Those of metrics.jsonl, timings aside."""
    rows = lines(run_dir)
    names = {name for row in rows for name in row} - {"step"}
    return {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}


def assert_shows(run_dir: Path, shown: Points) -> None:
    """A tracker shows every point of the run's own files once."""
    own = own_points(run_dir)
    assert [step for step, _ in own["eval/chain/accuracy"]] == [0, 2, 3]
    assert [step for step, _ in own["loss/value"]] == [0, 1, 2]
    for name, points in own.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in points], name
        assert [value for _, value in shown[name]] == pytest.approx([value for _, value in points], rel=1e-6), name
    assert {name for name in shown if not name.startswith(("time/", "throughput/"))} == own.keys()


def test_tensorboard_shows_a_resumed_run_as_if_it_had_never_been_interrupted(run: Run):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
    )
    # The first start evaluates at its end, as the next one does at its beginning.
    run(*IN_PROCESS, "tracker=tensorboard", "trainer.num_steps=2")
    run_dir = run(*IN_PROCESS, "tracker=tensorboard")
    assert len(list((run_dir / "tensorboard").iterdir())) == 2
    events = accumulator.EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    assert_shows(run_dir, {name: [(point.step, point.value) for point in events.Scalars(name)] for name in names})


def test_mlflow_holds_a_resumed_run_as_one(run: Run, tmp_path: Path):
    tracking = pytest.importorskip("mlflow.tracking", reason="needs the extra mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run(*IN_PROCESS, "tracker=mlflow", f"tracker.uri={uri}", "trainer.num_steps=2")
    run_dir = run(*IN_PROCESS, "tracker=mlflow", f"tracker.uri={uri}")
    client = tracking.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["rollout.group_size"] == "4"
    histories = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    shown = {name: sorted((point.step, point.value) for point in points) for name, points in histories.items()}
    assert_shows(run_dir, shown)


def test_a_run_goes_on_to_the_same_end_when_wandbs_process_is_killed(run: Run, whole: Run, monkeypatch, caplog):
    expected = whole(*IN_PROCESS)
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = WandbTracker.log

    def log_and_kill(self: WandbTracker, metrics: Mapping[str, float], step: int) -> None:
        log(self, metrics, step)
        for child in psutil.Process().children():
            if step == 1 and child.name().startswith("wandb-core"):
                child.kill()
                child.wait()

    monkeypatch.setattr(WandbTracker, "log", log_and_kill)
    run_dir = run(*IN_PROCESS, "tracker=wandb")
    assert [record.getMessage()[:30] for record in caplog.records if "tracker=" in record.getMessage()] == [
        "warning: tracker=wandb is lost"
    ]
    assert read_summary(run_dir).outcome is Outcome.finished
    assert_same_run(run_dir, expected)


def test_a_tracker_that_cannot_start_costs_a_run_that_goes_on_nothing(run: Run):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    folder = run(*IN_PROCESS)
    (folder / "tensorboard").touch()  # where its folder should be
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "config.json"}
    with pytest.raises(ConfigError, match="tracker=tensorboard cannot start: "):
        run(*IN_PROCESS, "trainer.num_steps=4", "tracker=tensorboard")
    assert {path: path.read_bytes() for path in before} == before
