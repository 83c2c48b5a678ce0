"""`env=no_tool`: the policy has one turn and nothing to call, as the measure of what a tool is worth."""

from dataclasses import dataclass, field
from typing import ClassVar

from turnwise.env.opening import opening_messages
from turnwise.env.thinking import after_thinking
from turnwise.env.tool_call import extract_boxed
from turnwise.types import Isolation, Message, Problem, StepResult, StopReason
from turnwise.worked_examples import ExampleMessage


@dataclass(frozen=True, kw_only=True)
class NoTool:
    """One turn in which nothing is executed: code blocks and tool calls are plain text."""

    tool_language: ClassVar[None] = None
    """There is nothing to call."""

    tool_format: ClassVar[None] = None
    """So no format of calls is read."""

    system_prompt: str = ""
    """Placed before the problem's prompt as a system message; empty: no system message."""

    examples: list[ExampleMessage] = field(default_factory=list)
    """Worked examples between the system message and the problem."""

    problem_suffix: str = ""
    """Appended to the problem."""

    def start(self) -> "NoToolPool":
        """Nothing is started."""
        return NoToolPool(self)


class NoToolPool:
    """Makes episodes; fulfils `EnvironmentPool`."""

    isolation: Isolation | None = None
    """It runs no programs."""

    def __init__(self, settings: NoTool) -> None:
        self._settings = settings

    def episode(self, problem: Problem) -> "Monologue":
        """A fresh episode of `problem`."""
        return Monologue(self._settings, problem)

    async def close(self) -> None:
        """Nothing to end."""


class Monologue:
    """One episode of one turn; fulfils `Environment`."""

    def __init__(self, settings: NoTool, problem: Problem) -> None:
        self._settings = settings
        self._problem = problem
        self._is_over = False

    def initial_messages(self) -> tuple[Message, ...]:
        """The opening transcript."""
        return opening_messages(self._settings, self._problem)

    async def step(self, turn_text: str) -> StepResult:
        """Ends the episode: by the last boxed answer after the turn's thoughts, inside code too, else as a void turn.

        Raises:
            RuntimeError: The episode is over.
        """
        if self._is_over:
            raise RuntimeError(f"the episode of problem {self._problem.id!r} is over")
        self._is_over = True
        answer = extract_boxed(after_thinking(turn_text))
        return StepResult(stop_reason=StopReason.void_turn if answer is None else StopReason.answered, answer=answer)

    async def close(self) -> None:
        """Ends the episode; safe to call twice."""
        self._is_over = True
