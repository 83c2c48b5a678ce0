"""`env=no_tool`: the policy has one turn and nothing to call, as the measure of what a tool is worth."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from turnwise.env.opening import opening_messages
from turnwise.env.solution import Judge, fenced_programs, judged_end
from turnwise.env.thinking import after_thinking
from turnwise.env.tool_call import extract_boxed
from turnwise.types import Isolation, Message, Problem, StepResult, StopReason
from turnwise.worked_examples import ExampleMessage

Judges = Callable[[Problem], Judge]
"""Who decides on the program that a problem asks for."""


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

    def start(self, judges: Judges | None = None) -> "NoToolPool":
        """Nothing is started; `judges` decide on problems that ask for a program, which are refused without."""
        return NoToolPool(self, judges)


class NoToolPool:
    """Makes episodes; fulfils `EnvironmentPool`."""

    isolation: Isolation | None = None
    """It runs no programs."""

    def __init__(self, settings: NoTool, judges: Judges | None) -> None:
        self._settings = settings
        self._judges = judges

    def episode(self, problem: Problem) -> "Monologue":
        """A fresh episode of `problem`.

        Raises:
            ValueError: It has tests, and there is nothing to run them.
        """
        if problem.tests and self._judges is None:
            raise ValueError(f"problem {problem.id!r} has tests, which env=python_tool alone can run")
        judge = self._judges(problem) if problem.tests and self._judges is not None else None
        return Monologue(self._settings, problem, judge)

    async def close(self) -> None:
        """Nothing to end."""


class Monologue:
    """One episode of one turn; fulfils `Environment`."""

    def __init__(self, settings: NoTool, problem: Problem, judge: Judge | None) -> None:
        self._settings = settings
        self._problem = problem
        self._judge = judge
        self._is_over = False

    def initial_messages(self) -> tuple[Message, ...]:
        """The opening transcript."""
        return opening_messages(self._settings, self._problem)

    async def step(self, turn_text: str) -> StepResult:
        """Ends the episode: by the last boxed answer after the turn's thoughts, inside code too, else as a void turn.

        Where the problem has tests, the last fenced Python program that defines its entry point is the answer.

        Raises:
            RuntimeError: The episode is over.
        """
        if self._is_over:
            raise RuntimeError(f"the episode of problem {self._problem.id!r} is over")
        self._is_over = True
        said = after_thinking(turn_text)
        answer = extract_boxed(said)
        if self._judge is not None:
            return await judged_end(self._judge, fenced_programs(said), answer)
        return StepResult(stop_reason=StopReason.void_turn if answer is None else StopReason.answered, answer=answer)

    async def close(self) -> None:
        """Ends the episode; safe to call twice."""
        self._is_over = True
