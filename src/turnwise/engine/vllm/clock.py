"""The seconds in which something was under way, whatever number of things it was."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class BusyClock:
    """Counts seconds while at least one thing is under way. May be read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_running = 0
        self._seconds = self._since = 0.0

    @property
    def is_running(self) -> bool:
        """Whether something is under way."""
        return self._num_running > 0

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        with self._lock:
            return self._seconds + (time.perf_counter() - self._since if self._num_running else 0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Something is under way."""
        with self._lock:
            if not self._num_running:
                self._since = time.perf_counter()
            self._num_running += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_running -= 1
                if not self._num_running:
                    self._seconds += time.perf_counter() - self._since
