"""`env=calculator`: the policy asks for one operation on whole numbers a turn, and ends with a boxed answer."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from turnwise.env.conversation import ToolConversation
from turnwise.env.tool_call import ParsedTurn, ToolSignature
from turnwise.env.tool_format import ToolFormat, parse_turn
from turnwise.types import Isolation, Problem, ToolCall, ToolResult, ToolStatus
from turnwise.worked_examples import ExampleMessage

SIGNATURE = ToolSignature("calculator", "operation")

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}
"""What it can do, with Python's meaning for negative numbers."""

_OPERATION = re.compile(r"\s*(-?[0-9]+)\s*(\+|-|\*|//|%)\s*(-?[0-9]+)\s*")


@dataclass(frozen=True, kw_only=True)
class Calculator:
    """A pocket calculator. It takes one operation a turn, so that an expression of n operations takes n turns."""

    tool_language: ClassVar[str] = SIGNATURE.name
    """What a call names."""

    tool_format: ToolFormat = ToolFormat.code_block
    """How calls are written: fenced code blocks, or JSON between tags as Hermes and Qwen models do."""

    system_prompt: str = ""
    """Placed before the problem's prompt as a system message; empty: no system message."""

    examples: list[ExampleMessage] = field(default_factory=list)
    """Worked examples between the system message and the problem."""

    problem_suffix: str = ""
    """Appended to the problem."""

    max_digits: int = 9
    """Digits of a number that it takes; a longer one is the caller's error."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_digits <= 1000:
            raise ValueError(f"max_digits={self.max_digits}: expected 1 to 1000")

    def start(self) -> "CalculatorPool":
        """Nothing is started: operations are done in this process."""
        return CalculatorPool(self)


class CalculatorPool:
    """Makes episodes; fulfils `EnvironmentPool` and is the `Tool` of each episode."""

    isolation: Isolation | None = None
    """It runs no programs."""

    def __init__(self, calculator: Calculator) -> None:
        self._calculator = calculator

    def episode(self, problem: Problem) -> ToolConversation:
        """A fresh episode of `problem`."""
        return ToolConversation(self, self._calculator, problem)

    def parse(self, turn_text: str) -> ParsedTurn:
        """The calls of a turn, of which at most the first is well-formed, when it is one operation; and the rest."""
        turn = parse_turn(turn_text, self._calculator.tool_format, SIGNATURE)
        calls = (
            replace(call, error=_complaint(call.code, index)) if call.error is None else call
            for index, call in enumerate(turn.calls)
        )
        return replace(turn, calls=tuple(calls))

    async def run(self, calls: tuple[ToolCall, ...]) -> ToolResult:
        """Does the operation of a turn's one call."""
        (call,) = calls
        return calculate(call.code, self._calculator.max_digits)

    async def close(self) -> None:
        """Nothing to end."""


def calculate(code: str, max_digits: int) -> ToolResult:
    """The result of one operation, or a user error that says why there is none.

    Args:
        code: Text that `Calculator` takes for one operation.
        max_digits: Digits of a number; longer ones are refused before anything is computed.
    """
    match = _OPERATION.fullmatch(code)
    assert match is not None, code
    left, sign, right = match.groups()
    if max(len(number.lstrip("-")) for number in (left, right)) > max_digits:
        return _result(ToolStatus.user_error, f"OverflowError: a number has more than {max_digits} digits")
    try:
        return _result(ToolStatus.ok, str(OPERATIONS[sign](int(left), int(right))))
    except ZeroDivisionError:
        return _result(ToolStatus.user_error, "ZeroDivisionError: division by zero")


def _complaint(code: str, index: int) -> str | None:
    """What is wrong with call `index` of a turn, None when it is one operation and the only call."""
    if index > 0:
        return "more than one call"
    return None if _OPERATION.fullmatch(code) else "expected one operation"


def _result(status: ToolStatus, output: str) -> ToolResult:
    return ToolResult(status=status, output=output, wall_s=0.0)  # no time that could be told from none
