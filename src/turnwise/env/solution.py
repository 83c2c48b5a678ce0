"""Problems that ask for a program: which one of an episode is the solution, and whether it passes the tests."""

import ast
import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from turnwise.env.breaker import CircuitBreaker
from turnwise.env.sandbox.interface import SandboxPool
from turnwise.types import Problem, StepResult, StopReason, ToolCall, ToolResult, ToolStatus


class Verdict(NamedTuple):
    """What became of an episode that ends: the solution, None where no program is one, and whether it passed."""

    solution: str | None
    passed: bool
    failure: ToolResult | None = None
    """What kept the sandbox from saying so; `passed` then says nothing."""


class Judge(Protocol):
    """What decides on an episode that asks for a program."""

    async def judge(self, programs: Sequence[str]) -> Verdict:
        """Finds the solution among the episode's well-formed programs, in order, and runs the problem's tests on it."""
        ...


async def judged_end(
    judge: Judge, programs: Sequence[str], answer: str | None, calls: tuple[ToolCall, ...] = ()
) -> StepResult:
    """The end of an episode that asks for a program, at a turn that calls nothing more.

    Args:
        judge: What runs the tests.
        programs: Well-formed programs of all turns.
        answer: What the turn boxed, which hands the solution in; None if nothing.
        calls: Those of the turn, for the record.

    Returns:
        An answered episode where there is a solution or a box; else a void turn; or one that infrastructure ended.
    """
    verdict = await judge.judge(programs)
    if verdict.failure is not None:
        return StepResult(stop_reason=StopReason.tool_infrastructure, tool_calls=calls, tool_result=verdict.failure)
    if verdict.solution is None and answer is None:
        return StepResult(stop_reason=StopReason.void_turn, tool_calls=calls)
    handed_in = answer if verdict.solution is None else verdict.solution
    return StepResult(stop_reason=StopReason.answered, answer=handed_in, passed=verdict.passed, tool_calls=calls)


class SolutionTests:
    """The tests of one problem; fulfils `Judge`.

    They run behind the solution in a fresh process of the sandbox, whatever the episode's own session holds, so a
    solution must bring its imports and helpers. It passed if the program came to its end without an exception and
    within the limits: behind the tests it prints a word drawn anew for every check, so that a solution that ends the
    process early, or prints whatever it likes, did not.

    What this cannot keep out is a solution made to deceive these very tests, for it shares their process: one that
    reads the word from the program's own code, replaces what the tests call, or returns values that are equal to
    everything. The sandbox keeps such a solution from everything else.
    """

    def __init__(self, problem: Problem, sandbox_pool: SandboxPool, breaker: CircuitBreaker) -> None:
        self._problem = problem
        self._sandbox_pool = sandbox_pool
        self._breaker = breaker

    async def judge(self, programs: Sequence[str]) -> Verdict:
        """Tests the last program that defines the problem's entry point.

        Raises:
            BrokenToolError: The sandbox fails too often to go on.
        """
        solution = find_solution(programs, self._problem.entry_point)
        if solution is None:
            return Verdict(None, False)
        word = secrets.token_hex(16)
        program = f"{solution}\n\n{self._problem.tests}\n__import__('builtins').print({word!r})\n"
        result = await self._sandbox_pool.run(program)
        has_failed = result.status is ToolStatus.infrastructure
        self._breaker.record(result.stderr if has_failed else None)
        if has_failed:
            failure = ToolResult(status=result.status, output=result.stderr, wall_s=result.wall_s)
            return Verdict(solution, False, failure)
        return Verdict(solution, result.status is ToolStatus.ok and word in result.stdout.split("\n"))


def find_solution(programs: Sequence[str], entry_point: str) -> str | None:
    """The last of the programs that is Python and defines `entry_point` on its top level; None if none is."""
    return next((program for program in reversed(programs) if _defines(program, entry_point)), None)


def _defines(program: str, name: str) -> bool:
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two for hostile nesting
        return False
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if statement.name == name:
                return True
            case ast.Assign(targets=targets) if name in [one.id for one in targets if isinstance(one, ast.Name)]:
                return True
    return False
