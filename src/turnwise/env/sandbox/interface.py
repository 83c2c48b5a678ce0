"""What runs the programs of a policy, wherever it runs them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from turnwise.types import Isolation, ToolStatus


class ErrorDetail(StrEnum):
    """How much of an uncaught exception is told."""

    last_line = "last_line"
    traceback = "traceback"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramResult:
    """What became of a program; an uncaught exception ends `stderr`, which also says what failed otherwise."""

    status: ToolStatus
    stdout: str
    stderr: str
    value: str = ""
    """The value of an expression that stood last, where it was asked for; one line more of what was printed."""
    wall_s: float
    has_ended: bool = True
    """Whether the process is gone in which it ran: the next program of a session finds no variables."""

    @property
    def output(self) -> str:
        """All of it: first what was printed, then the value, then what went wrong."""
        return self.stdout + self.value + self.stderr


class Interpreter(Protocol):
    """Runs programs one after the other."""

    async def run(
        self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback, *, shows_value: bool = False
    ) -> ProgramResult:
        """Runs `code`.

        Where it `shows_value`, the value of an expression that stands last is told too, unless it is None.

        A failure that is not the program's has the status `infrastructure`, and its `stderr` says what failed.
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

    def session(self) -> Interpreter:
        """An interpreter that gives each program the variables of those before it; the caller closes it.

        Raises:
            ValueError: The sandbox has none (`keeps_sessions`).
        """
        ...


class Sandbox(Protocol):
    """A sandbox before it starts."""

    @property
    def max_capture_bytes(self) -> int:
        """Bytes of output that are kept."""
        ...

    @property
    def keeps_sessions(self) -> bool:
        """Whether its pool has sessions."""
        ...

    def start(self) -> SandboxPool:
        """Starts it; the caller closes the pool."""
        ...
