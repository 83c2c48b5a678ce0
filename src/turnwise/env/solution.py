"""Problems that ask for a program: which one of an episode is the solution, and whether it passes the tests."""

import ast
import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from turnwise.env.breaker import CircuitBreaker
from turnwise.env.code_block import parse_code_blocks
from turnwise.env.sandbox.interface import SandboxPool
from turnwise.env.tool_call import ToolSignature
from turnwise.types import Problem, StepResult, StopReason, ToolCall, ToolResult, ToolStatus

PYTHON = ToolSignature("python", "code")
"""What the fence of a program says."""


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
    solution must bring its imports and helpers, but for those that the problem itself shows. It passed if the program
    came to its end without an exception and within the limits: behind the tests it prints a word drawn anew for every
    check, so that a solution that ends the process early, or prints whatever it likes, did not.

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
        shown = shown_program(self._problem.prompt[-1].content, self._problem.entry_point)
        program = f"{_behind(shown, solution)}\n\n{self._problem.tests}\n__import__('builtins').print({word!r})\n"
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


def fenced_programs(text: str) -> list[str]:
    """The well-formed fenced Python programs of a text, in order."""
    return [call.code for call in parse_code_blocks(text, PYTHON).calls if call.error is None]


def shown_program(statement: str, entry_point: str) -> str:
    """The imports, helpers and constants that a statement written in Python shows before the function it asks for.

    Empty where there are none, or where what stands there is no such program.
    """
    asked = re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", statement, re.MULTILINE)
    before = statement[: asked.start()].strip() if asked else ""
    tree = _parsed(before)
    return before if tree is not None and all(map(_can_be_shown, tree.body)) else ""


def _can_be_shown(statement: ast.stmt) -> bool:
    """Tells a program from prose that happens to be Python, as a single word is."""
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.Assign() | ast.Expr(value=ast.Constant()):
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return True
        case _:
            return False


def _behind(shown: str, solution: str) -> str:
    """A solution behind what its problem shows, but for its imports from the future, which must come first."""
    tree = _parsed(solution) if shown else None
    body = [] if tree is None else tree.body
    ends = [one.end_lineno or 0 for one in body if isinstance(one, ast.ImportFrom) and one.module == "__future__"]
    if not ends:
        return f"{shown}\n\n{solution}"
    lines = solution.split("\n")
    return "\n".join([*lines[: ends[-1]], shown, *lines[ends[-1] :]])


def _parsed(program: str) -> ast.Module | None:
    """The syntax tree of a program; None where it is not Python."""
    try:
        return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two for hostile nesting
        return None


def _defines(program: str, name: str) -> bool:
    """Whether a program binds the name on its top level, in whatever way."""
    tree = _parsed(program)
    pending: list[ast.AST] = [] if tree is None else [tree]
    while pending:
        match pending.pop():
            case ast.FunctionDef(name=bound) | ast.AsyncFunctionDef(name=bound) | ast.ClassDef(name=bound):
                is_it = bound == name
            case ast.alias(name=module, asname=bound):
                is_it = name == (bound or module.partition(".")[0])
            case ast.Name(id=bound, ctx=ast.Store()):
                is_it = bound == name
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                continue  # scopes of their own
            case ast.AnnAssign(value=None):
                continue  # names a type, and binds nothing
            case node:
                pending.extend(ast.iter_child_nodes(node))
                continue
        if is_it:
            return True
    return False
