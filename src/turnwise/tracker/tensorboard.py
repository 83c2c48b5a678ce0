"""TensorBoard event files beside the run's own files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

from turnwise.protocols import PGK, Metrics, Tracker
from turnwise.tracker.external import beside_files
from turnwise.tracker.files import Files
from turnwise.types import ScoredGroup

FOLDER = "tensorboard"
"""Of a run's folder: the event files."""


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """Writes a run's figures for TensorBoard as well; the run's own files are written all the same."""

    save_groups_every: int = 1
    """Steps between trajectory bundles in the run's folder; 0 keeps none."""

    def __post_init__(self) -> None:
        Files(save_groups_every=self.save_groups_every)

    def start(self, run_dir: Path, *, first_step: int, label: str, config: Mapping[str, Any]) -> Tracker:
        """Opens the run's files and an event file; TensorBoard names the run by its folder, so not by `label`."""
        del label
        return beside_files(
            "tensorboard",
            lambda: TensorBoardTracker(run_dir, first_step, config),
            run_dir,
            first_step,
            self.save_groups_every,
        )


class TensorBoardTracker:
    """Writes figures and configuration to an event file under `run_dir`/tensorboard, one file for each start.

    Each call of `log` is on disk when it returns. A file says at which step it begins, and TensorBoard shows nothing of
    earlier files from that step on, as if a resumed run had never been interrupted. Trajectories are not written.

    Args:
        run_dir: The run's folder.
        first_step: The first step that this start will log.
        config: The resolved configuration, shown as text.

    Raises:
        ValueError: The package is not installed.
        OSError: The file cannot be written.
    """

    def __init__(self, run_dir: Path, first_step: int, config: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("it needs tensorboard: pip install '.[tensorboard]' in the repository") from error
        self._writer = SummaryWriter(run_dir / FOLDER, purge_step=first_step)
        self._writer.add_text("config", indent(json.dumps(config, indent=2), " " * 4), first_step)
        self._writer.flush()

    def log(self, metrics: Metrics, step: int) -> None:
        """Writes a point for each figure."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_groups(self, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, step: int) -> None:
        """Does nothing: trajectories stay in the run's folder."""

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        self._writer.close()
