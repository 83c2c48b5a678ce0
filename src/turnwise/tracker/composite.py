"""Several trackers as one."""

from collections.abc import Sequence
from contextlib import ExitStack

from turnwise.protocols import PGK, Metrics, Tracker
from turnwise.types import ScoredGroup


class CompositeTracker:
    """Hands everything to each of `trackers` in order, and owns them: closing it closes them all."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, metrics: Metrics, step: int) -> None:
        """Logs to each."""
        for tracker in self._trackers:
            tracker.log(metrics, step)

    def log_groups(self, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, step: int) -> None:
        """Logs to each."""
        for tracker in self._trackers:
            tracker.log_groups(groups, returns, advantages, step)

    def close(self) -> None:
        """Closes each, last first, even when one of them fails."""
        with ExitStack() as stack:
            for tracker in self._trackers:
                stack.callback(tracker.close)
