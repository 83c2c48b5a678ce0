"""What runs the programs of a policy, wherever it runs them."""

from enum import StrEnum
from typing import Protocol

from turnwise.types import Isolation, ToolResult


class ErrorDetail(StrEnum):
    """How much of an uncaught exception is told."""

    last_line = "last_line"
    traceback = "traceback"


class Interpreter(Protocol):
    """Runs programs one after the other; one that keeps state gives each the variables of those before it."""

    async def run(
        self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback, *, shows_value: bool = False
    ) -> ToolResult:
        """Runs `code`; status and whatever it printed, an uncaught exception at the end.

        Where it `shows_value`, the value of an expression that stands last is printed too, unless it is None.

        A failure that is not the program's has the status `infrastructure`, and its output says what failed.
        """
        ...

    async def close(self) -> None:
        """Ends what it holds; safe to call twice."""
        ...


class SandboxPool(Interpreter, Protocol):
    """A sandbox that runs: any number of programs may be given to it side by side, none knows of another."""

    @property
    def isolation(self) -> Isolation:
        """How they are kept apart from everything else."""
        ...


class Sandbox(Protocol):
    """A sandbox before it starts."""

    @property
    def max_capture_bytes(self) -> int:
        """Bytes of output that are kept."""
        ...

    def start(self) -> SandboxPool:
        """Starts it; the caller closes the pool."""
        ...
