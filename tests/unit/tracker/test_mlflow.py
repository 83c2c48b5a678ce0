import math
import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from turnwise.tracker.mlflow import MLflow, MLflowTracker

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("mlflow", "alembic"))), reason="needs the extra mlflow")
SRC = Path(__file__).parents[3] / "src"
CONFIG = {"seed": 3, "reward": {"shaping": True, "similarity": {"n": None}}, "env": {"system_prompt": "p" * 9000}}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """A store without a run, to be copied: making its tables takes a second."""
    path = tmp_path_factory.mktemp("empty") / "sub" / "mlflow.db"
    client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def uri(empty, tmp_path_factory) -> str:
    """One store for the whole module."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copy(empty, path)
    return f"sqlite:///{path}"


def client(uri: str):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def read(uri: str, experiment: str):
    """The runs of an experiment, the latest first."""
    found = client(uri).get_experiment_by_name(experiment)
    assert found is not None
    return client(uri).search_runs([found.experiment_id])


def points(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client(uri).get_metric_history(run_id, name))


def run_steps(settings, run_dir, first, last, label="gtpo", scale=1.0, config=CONFIG):
    tracker = settings.start(run_dir, first_step=first, label=label, config=config)
    for step in range(first, last):
        tracker.log({"rollout/accuracy": scale * step, "eval/a/pass@4": 0.5}, step)
        tracker.log_groups([], [], [], step)
    tracker.close()
    tracker.close()


def test_run_params_figures_and_status_read_back(tmp_path, uri, capfd):
    run_steps(MLflow(uri=uri), tmp_path, 0, 3, label="gtpo+seed")
    (run,) = read(uri, "gtpo+seed")
    assert run.info.run_id == (tmp_path / "mlflow" / "run_id").read_text().strip()
    assert run.info.run_name == "gtpo+seed"
    assert run.info.status == "FINISHED"
    params = dict(run.data.params)
    assert set(params.pop("env.system_prompt")) == {"p"}  # MLflow cuts it
    assert params == {"seed": "3", "reward.shaping": "True", "reward.similarity.n": "None"}
    assert points(uri, run.info.run_id, "rollout/accuracy") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert points(uri, run.info.run_id, "eval/a/pass_4") == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3  # the run's own files are there as well
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_a_resumed_run_goes_on_under_its_id_without_a_second_point_of_a_step(tmp_path, uri):
    run_steps(MLflow(uri=uri), tmp_path, 0, 4, label="resumed")
    other = {**CONFIG, "seed": 4}
    run_steps(MLflow(uri=uri), tmp_path, 2, 6, label="resumed", scale=10.0, config=other)
    (run,) = read(uri, "resumed")
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    figures = points(uri, run.info.run_id, "rollout/accuracy")
    assert figures == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0)]


def test_a_fresh_start_in_a_used_folder_is_another_run_of_the_experiment(tmp_path, uri):
    for _ in range(2):
        run_steps(MLflow(uri=uri, experiment="shared"), tmp_path, 0, 1)
    assert len(read(uri, "shared")) == 2


@pytest.mark.parametrize(
    ("end", "status"), [(ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(3), "KILLED")]
)
def test_a_run_that_ends_otherwise_says_so(tmp_path, uri, end, status):
    tracker = MLflowTracker(tmp_path, 0, uri, f"ended-{status}", "gtpo", {})
    try:
        raise end
    except BaseException:
        tracker.close()
    assert {run.info.status for run in read(uri, f"ended-{status}")} == {status}


def test_names_that_mlflow_refuses_and_figures_that_are_not_finite(tmp_path, uri):
    tracker = MLflowTracker(tmp_path, 0, uri, "names", "gtpo", {"options": {"a*b/../c": 1, "": 2}})
    tracker.log({"a/../x": 1.0, "/b//c": 2.0, "a/ü?": math.nan, "a/inf": math.inf, "d/ .": 4, "..": 5}, 0)
    tracker.log({f"many/{n}": float(n) for n in range(1203)}, 1)  # more than MLflow takes at once
    tracker.close()
    (run,) = read(uri, "names")
    figures = dict(run.data.metrics)
    assert [figures.pop(f"many/{n}") for n in range(1203)] == list(range(1203))
    assert math.isnan(figures.pop("a/ü_"))
    assert figures.pop("a/inf") > 1e300
    assert figures == {"a/_/x": 1.0, "_/b/_/c": 2.0, "d/ .": 4.0, "_": 5.0}
    assert dict(run.data.params) == {"options.a_b/_/c": "1", "options.": "2"}


def test_a_store_that_does_not_know_the_run_is_refused(tmp_path, empty, uri):
    run_steps(MLflow(uri=uri), tmp_path, 0, 1, label="elsewhere")
    other = f"sqlite:///{shutil.copy(empty, tmp_path / 'other.db')}"
    message = (
        r"tracker=mlflow cannot start: sqlite:.*other\.db does not know the run [0-9a-f]{32} of .*run_id: expected"
    )
    with pytest.raises(ValueError, match=message):
        MLflow(uri=other).start(tmp_path, first_step=1, label="elsewhere", config={})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("nosuch://here", "unsupported URI 'nosuch://here'"),
        ("http://127.0.0.1:{port}", "Max retries exceeded"),
        ("sqlite:////dev/null/mlflow.db", "/dev/null"),
    ],
)
def test_a_bad_uri_is_refused_before_a_file_is_touched(tmp_path, monkeypatch, bad, message):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken and not listened at
        settings = MLflow(uri=bad.format(port=unused.getsockname()[1]))
        with pytest.raises(ValueError, match=rf"tracker=mlflow cannot start: .*{message}"):
            settings.start(tmp_path, first_step=0, label="gtpo", config={})
    assert list(tmp_path.iterdir()) == []


def test_the_store_follows_mlflows_own_variable_and_is_beside_the_runs_without_it(tmp_path, monkeypatch, empty, uri):
    (tmp_path / "runs").mkdir()
    shutil.copy(empty, tmp_path / "runs" / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    run_steps(MLflow(), tmp_path / "one", 0, 1, label="beside")
    assert [run.info.run_name for run in read(f"sqlite:///{tmp_path}/runs/mlflow.db", "beside")] == ["beside"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_steps(MLflow(), tmp_path / "two", 0, 1, label="variable")
    assert [run.info.run_name for run in read(uri, "variable")] == ["variable"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "runs", "two"]


def test_runs_that_start_at_once_make_one_store_together(tmp_path):
    code = """
import sys
from pathlib import Path
from turnwise.tracker.mlflow import MLflowTracker
print("ready", flush=True)
sys.stdin.readline()
tracker = MLflowTracker(Path(sys.argv[1]), 0, sys.argv[2], "together", "gtpo", {})
tracker.log({"a/x": 1.0}, 0)
tracker.close()
"""
    uri = f"sqlite:///{tmp_path}/sub/mlflow.db"
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / str(number), uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SRC)},
        )
        for number in range(2)
    ]
    for start in starts:
        assert start.stdout
        assert start.stdout.readline() == "ready\n"
    for start in starts:
        assert start.stdin
        start.stdin.write("go\n")
        start.stdin.flush()
    printed = [start.communicate()[0] for start in starts]
    assert printed == ["", ""]
    assert [run.info.status for run in read(uri, "together")] == ["FINISHED", "FINISHED"]


def test_a_store_that_breaks_costs_the_tracker_and_not_the_run(tmp_path, empty, caplog):
    store = shutil.copy(empty, tmp_path / "mlflow.db")
    tracker = MLflow(uri=f"sqlite:///{store}").start(tmp_path / "run", first_step=0, label="gtpo", config={})
    tracker.log({"a/x": 0.0}, 0)
    store.write_bytes(b"no database" * 1000)
    tracker.log({"a/x": 1.0}, 1)
    tracker.log({"a/x": 2.0}, 2)
    tracker.close()
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("turnwise")]
    assert warning.startswith("warning: tracker=mlflow is lost; the run goes on without it (MlflowException: ")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_without_a_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "alembic", None)
    message = r"^tracker=mlflow cannot start: it needs alembic: pip install '\.\[mlflow\]' in the repository$"
    with pytest.raises(ValueError, match=message):
        MLflow().start(tmp_path, first_step=0, label="gtpo", config={})
    assert list(tmp_path.iterdir()) == []


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"save_groups_every=-2: expected >= 0"):
        MLflow(save_groups_every=-2)
    with pytest.raises(ValueError, match=r"tracker\.uri is empty: expected a tracking URI"):
        MLflow(uri="")
    with pytest.raises(ValueError, match=r"tracker\.experiment is empty"):
        MLflow(experiment="")
