"""MLflow beside the run's own files, in a local database or at a server."""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from turnwise.protocols import PGK, Metrics, Tracker
from turnwise.tracker.external import beside_files, keep_run_id, kept_run_id
from turnwise.tracker.files import Files
from turnwise.types import ScoredGroup

_SQLITE = "sqlite:///"
LOCAL_STORE = f"{_SQLITE}runs/mlflow.db"
"""One for all runs that are started in a folder: MLflow compares what lies in one store."""
_METRICS_A_CALL, _PARAMS_A_CALL = 1000, 100
"""What MLflow takes at most."""
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Where the environment says nothing: no report of its use, and seconds, not minutes, for a server that is gone."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class MLflow:
    """Sends a run's figures and settings to MLflow as well; the run's own files are written all the same."""

    uri: str | None = None
    """Where MLflow keeps them; None takes MLFLOW_TRACKING_URI, and without it the database runs/mlflow.db."""
    experiment: str | None = None
    """MLflow's name for what the runs that are compared have in common; None takes the run's label."""
    save_groups_every: int = 1
    """Steps between trajectory bundles in the run's folder; 0 keeps none."""

    def __post_init__(self) -> None:
        if self.uri == "":
            raise ValueError(f"tracker.uri is empty: expected a tracking URI of MLflow, such as {LOCAL_STORE}")
        if self.experiment == "":
            raise ValueError("tracker.experiment is empty: expected the name of an MLflow experiment")
        Files(save_groups_every=self.save_groups_every)

    def start(self, run_dir: Path, *, first_step: int, label: str, config: Mapping[str, Any]) -> Tracker:
        """Opens the run's files and the MLflow run `label` with the resolved `config`."""
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or LOCAL_STORE
        experiment = self.experiment or label
        return beside_files(
            "mlflow",
            lambda: MLflowTracker(run_dir, first_step, uri, experiment, label, config),
            run_dir,
            first_step,
            self.save_groups_every,
        )


class MLflowTracker:
    """Logs figures to one MLflow run, and the configuration as its params.

    The run's id is kept in `run_dir`/mlflow/run_id, so that a resumed run continues the same one. MLflow takes no point
    back: what it holds from `first_step` on stays, and is not logged again. Trajectories are not uploaded.

    Args:
        run_dir: The run's folder.
        first_step: The first step that this start will log; above 0, the earlier MLflow run goes on.
        uri: MLflow's tracking URI.
        experiment: Name of the experiment; made when missing.
        label: The run's name.
        config: The resolved configuration; a run that goes on keeps the params of its first start.

    Raises:
        ValueError: A package is not installed, or `uri` does not know the run that is to go on.
    """

    def __init__(
        self, run_dir: Path, first_step: int, uri: str, experiment: str, label: str, config: Mapping[str, Any]
    ) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import alembic  # noqa: F401 - a local database needs it, and MLflow would blame the URI
            from mlflow.entities import Param
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ValueError(f"it needs {error.name}: pip install '.[mlflow]' in the repository") from error

        logging.getLogger("mlflow").setLevel(logging.ERROR)  # long params are cut, tables are made: nobody need know
        with _alone(uri):
            self._client = MlflowClient(tracking_uri=uri)
        self._held: frozenset[tuple[str, int]] = frozenset()
        self._is_open = True
        id_file = run_dir / "mlflow" / "run_id"
        if kept := kept_run_id(id_file, first_step):
            self.run_id = kept
            try:
                self._client.update_run(kept, status="RUNNING")
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise ValueError(
                    f"{uri} does not know the run {kept} of {id_file}: expected the URI that it began with; without "
                    f"that file another MLflow run begins"
                ) from error
            self._held = frozenset(self._points_from(first_step))
            return
        run = self._client.create_run(_experiment_id(self._client, experiment), run_name=label)
        self.run_id = run.info.run_id
        params = [Param(_allowed(key), str(value)) for key, value in _leaves(config)]
        for part in _parts(params, _PARAMS_A_CALL):
            self._client.log_batch(self.run_id, params=part)
        keep_run_id(id_file, self.run_id)

    def log(self, metrics: Metrics, step: int) -> None:
        """Logs a point for each figure; `@` and other characters that MLflow refuses become `_`."""
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000
        named = {_allowed(name): float(value) for name, value in metrics.items()}
        points = [Metric(name, value, now_ms, step) for name, value in named.items() if (name, step) not in self._held]
        for part in _parts(points, _METRICS_A_CALL):
            self._client.log_batch(self.run_id, metrics=part)

    def log_groups(self, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, step: int) -> None:
        """Does nothing: trajectories stay in the run's folder."""

    def close(self) -> None:
        """Ends the run as finished, as failed inside the handling of an error, or as killed; safe to call twice.

        A tracker that is lost is closed inside the handling of its error: what MLflow has of that run is not whole.
        """
        if self._is_open:
            self._is_open = False
            match sys.exception():
                case None:
                    status = "FINISHED"
                case Exception():
                    status = "FAILED"
                case _:
                    status = "KILLED"
            self._client.set_terminated(self.run_id, status)

    def _points_from(self, first_step: int) -> Iterator[tuple[str, int]]:
        for name in self._client.get_run(self.run_id).data.metrics:
            for point in self._client.get_metric_history(self.run_id, name):
                if point.step >= first_step:
                    yield name, point.step


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keeps other runs from opening a local database meanwhile: two that make its tables at once break it for good."""
    if not uri.startswith(_SQLITE):
        yield
        return
    from filelock import FileLock

    path = Path(uri.removeprefix(_SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


def _experiment_id(client: Any, name: str) -> str:
    """That of the experiment `name`, which other runs may be making at the same time."""
    from mlflow.exceptions import MlflowException

    try:
        return client.create_experiment(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.get_experiment_by_name(name).experiment_id


def _allowed(name: str) -> str:
    """`name` in the characters that MLflow allows, as a relative path without empty parts."""
    parts = re.sub(r"[^\w.\- :/]", "_", name).split("/")
    return "/".join("_" if part.strip(".") == "" else part for part in parts)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _parts(items: list[_T], size: int) -> Iterator[list[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
