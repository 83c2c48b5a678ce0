"""Trackers outside the run's own files: started beside these, and never in the way of the run."""

import logging
import textwrap
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from turnwise.protocols import PGK, Metrics, Tracker
from turnwise.tracker.composite import CompositeTracker
from turnwise.tracker.files import FilesTracker
from turnwise.types import ScoredGroup

LOGGER = logging.getLogger(__name__)
_MAX_LENGTH = 300
"""Of what a warning repeats of an error."""


def beside_files(
    name: str, open_tracker: Callable[[], Tracker], run_dir: Path, first_step: int, save_groups_every: int
) -> Tracker:
    """The run's own files, and beside them the tracker that `open_tracker` opens, which may be lost on the way.

    Args:
        name: What a user calls the tracker, `tracker=<name>`.
        open_tracker: Opens it; called before a file of the run is touched.
        run_dir: The run's folder.
        first_step: The first step that this start will log.
        save_groups_every: Steps between trajectory bundles; 0 writes none.

    Raises:
        ValueError: The tracker cannot start: a package is missing, the place it is to write to is not there, ...
    """
    try:
        external = DispensableTracker(name, open_tracker())
    except Exception as error:  # libraries raise what they like, and a tracker that does not start is a user's to mend
        raise ValueError(f"tracker={name} cannot start: {error}") from error
    with ExitStack() as opened:
        opened.callback(external.close)
        files = FilesTracker(run_dir, first_step, save_groups_every)
        opened.pop_all()
    return CompositeTracker([files, external])


def kept_run_id(id_file: Path, first_step: int) -> str | None:
    """The id that the run has at its tracker, when it goes on; None for one that begins, or has had no such tracker."""
    return id_file.read_text().strip() if first_step > 0 and id_file.exists() else None


def keep_run_id(id_file: Path, run_id: str) -> None:
    """Writes the id to where `kept_run_id` finds it."""
    id_file.parent.mkdir(parents=True, exist_ok=True)
    id_file.write_text(f"{run_id}\n")


class DispensableTracker:
    """A tracker that a run can do without: its first error gives one warning, and it is left out from then on.

    Its server may go away, its process be killed, its disk be full: what it would have got is in the run's own files.

    Args:
        name: What a user calls it.
        tracker: The tracker, which this one owns.
    """

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name = name
        self._tracker: Tracker | None = tracker

    def log(self, metrics: Metrics, step: int) -> None:
        """Hands it on, unless the tracker is lost."""
        self._attempt(lambda tracker: tracker.log(metrics, step))

    def log_groups(self, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, step: int) -> None:
        """Hands it on, unless the tracker is lost."""
        self._attempt(lambda tracker: tracker.log_groups(groups, returns, advantages, step))

    def close(self) -> None:
        """Closes the tracker, unless it is lost."""
        self._attempt(lambda tracker: tracker.close())

    def _attempt(self, call: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            call(self._tracker)
        except Exception as error:  # whatever it is, a run of days is worth more
            lost, self._tracker = self._tracker, None
            text = textwrap.shorten(f"{type(error).__name__}: {error}", _MAX_LENGTH, placeholder=" ...")
            LOGGER.warning("warning: tracker=%s is lost; the run goes on without it (%s)", self._name, text)
            with suppress(Exception):  # what is left of it; there is no second warning
                lost.close()
