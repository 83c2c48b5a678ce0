"""Ends a run whose tool fails too often through no fault of the policy."""

from collections import Counter, deque

WINDOW = 200
"""Tool calls that are looked back on."""


class BrokenToolError(RuntimeError):
    """The tool fails too often to go on; the text says how often and what failed."""


class CircuitBreaker:
    """Counts the failures among the last `WINDOW` calls.

    The share is that of a full window from the first call on: it trips once the failures alone exceed what `WINDOW`
    calls may have. With a share of 0.05 these are 10, so that a tool that is gone ends the run at its 11th call, while
    two early failures by chance, which are a large share of few calls, do not.
    """

    def __init__(self, max_rate: float) -> None:
        self._max_rate = max_rate
        self._failures: deque[str | None] = deque(maxlen=WINDOW)

    def record(self, failure: str | None) -> None:
        """Notes how one more call went: what failed, None if nothing did.

        Raises:
            BrokenToolError: Too many of the last calls failed.
        """
        self._failures.append(failure)
        counts = Counter(text for text in self._failures if text is not None)
        if counts.total() > self._max_rate * WINDOW:
            text, count = counts.most_common(1)[0]
            raise BrokenToolError(
                f"the sandbox failed in {counts.total()} of the last {len(self._failures)} tool calls, more than "
                f"env.max_infrastructure_rate={self._max_rate:g} of {WINDOW}; most often ({count} times): "
                f"{' '.join(text.split())}"
            )
