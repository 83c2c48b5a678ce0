"""`env=python_tool`: the policy writes Python programs, reads what they print, and ends with a boxed answer."""

from dataclasses import dataclass, field
from typing import ClassVar

from turnwise.env.breaker import CircuitBreaker
from turnwise.env.conversation import ToolConversation
from turnwise.env.sandbox.interface import ErrorDetail, Interpreter, ProgramResult, Sandbox, SandboxPool
from turnwise.env.sandbox.local import LocalSandbox
from turnwise.env.solution import SolutionTests
from turnwise.env.tool_call import ParsedTurn, ToolSignature
from turnwise.env.tool_format import ToolFormat, parse_turn
from turnwise.types import Isolation, Problem, ToolCall, ToolResult, ToolStatus
from turnwise.worked_examples import ExampleMessage

SIGNATURE = ToolSignature("python", "code")
NO_OUTPUT = "(no output)"
CUT_MARK = "\n...\n"
LOST = "\n(variables lost)"
"""Shown where the process of a session is gone, by the program's own doing or at a limit."""
LIMIT_MESSAGES = {
    ToolStatus.timeout: "TimeoutError: program ran too long",
    ToolStatus.memory: "MemoryError: program used too much memory",
    ToolStatus.output_limit: "OutputError: program printed or wrote too much",
}
"""Shown in place of what such a program printed, which depends on when it was killed."""


@dataclass(frozen=True, kw_only=True)
class PythonTool:
    """A conversation with a Python interpreter, which keeps variables from turn to turn only if it is `stateful`."""

    tool_language: ClassVar[str] = SIGNATURE.name
    """What a call names."""

    sandbox: Sandbox = field(default_factory=LocalSandbox)
    """Where programs run, and under which limits: `env/sandbox`."""

    tool_format: ToolFormat = ToolFormat.code_block
    """How calls are written: fenced code blocks, or JSON between tags as Hermes and Qwen models do."""

    stateful: bool = False
    """Keep variables and files from one turn of a trajectory to the next, in a process of its own."""

    system_prompt: str = ""
    """Placed before the problem's prompt as a system message; empty: no system message."""

    examples: list[ExampleMessage] = field(default_factory=list)
    """Worked examples between the system message and the problem."""

    problem_suffix: str = ""
    """Appended to the problem."""

    max_output_chars: int = 512
    """Characters of output that the policy sees; longer output loses its middle."""

    shows_value: bool = False
    """Show the value of an expression that a program ends with, as an interactive interpreter does."""

    error_detail: ErrorDetail = ErrorDetail.last_line
    """What the policy sees of an uncaught exception: the last line, or the traceback of its own frames."""

    max_infrastructure_rate: float = 0.05
    """Share of a window of calls that may fail through no fault of their programs; the run ends when more do."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_infrastructure_rate <= 1:
            raise ValueError(f"max_infrastructure_rate={self.max_infrastructure_rate}: expected 0 to 1")
        if self.stateful and not self.sandbox.keeps_sessions:
            raise ValueError(
                "stateful=true: this env/sandbox keeps nothing between programs, expected env/sandbox=local"
            )
        if not 32 <= self.max_output_chars <= self.sandbox.max_capture_bytes:
            raise ValueError(
                f"max_output_chars={self.max_output_chars}: "
                f"expected 32 to sandbox.max_capture_bytes={self.sandbox.max_capture_bytes}"
            )

    def start(self) -> "PythonToolPool":
        """Starts the sandbox; the caller closes the pool."""
        return PythonToolPool(self, self.sandbox.start())


class PythonToolPool:
    """Makes episodes that share one sandbox pool; fulfils `EnvironmentPool`."""

    def __init__(self, tool: PythonTool, sandbox_pool: SandboxPool) -> None:
        self._tool = tool
        self._sandbox_pool = sandbox_pool
        self._breaker = CircuitBreaker(tool.max_infrastructure_rate)

    @property
    def isolation(self) -> Isolation:
        """That of the sandbox."""
        return self._sandbox_pool.isolation

    @property
    def programs(self) -> SandboxPool:
        """The sandbox that runs them."""
        return self._sandbox_pool

    def episode(self, problem: Problem) -> ToolConversation:
        """A fresh episode of `problem`; episodes may run side by side, and their programs queue."""
        episode = PythonEpisode(self._tool, self._sandbox_pool, self._breaker)
        return ToolConversation(episode, self._tool, problem, self.judge(problem) if problem.tests else None)

    def judge(self, problem: Problem) -> SolutionTests:
        """What tests the program that `problem` asks for, in this sandbox."""
        return SolutionTests(problem, self._sandbox_pool, self._breaker)

    async def close(self) -> None:
        """Ends every process; safe to call twice."""
        await self._sandbox_pool.close()


class PythonEpisode:
    """What runs the programs of one episode; fulfils `Tool`."""

    def __init__(self, tool: PythonTool, sandbox_pool: SandboxPool, breaker: CircuitBreaker) -> None:
        self._tool = tool
        self._breaker = breaker
        self._session = sandbox_pool.session() if tool.stateful else None
        self._interpreter: Interpreter = self._session or sandbox_pool

    def parse(self, turn_text: str) -> ParsedTurn:
        """The programs of a turn, and what stands outside of them."""
        return parse_turn(turn_text, self._tool.tool_format, SIGNATURE)

    async def run(self, calls: tuple[ToolCall, ...]) -> ToolResult:
        """Runs the calls as one program.

        Raises:
            BrokenToolError: The sandbox fails too often to go on.
        """
        program = "\n".join(call.code for call in calls)
        result = await self._interpreter.run(program, self._tool.error_detail, shows_value=self._tool.shows_value)
        has_failed = result.status is ToolStatus.infrastructure
        self._breaker.record(result.stderr if has_failed else None)
        if has_failed:
            return ToolResult(status=result.status, output=result.stderr, wall_s=result.wall_s)
        note = LOST if self._session is not None and result.has_ended else ""
        text = _shown(result, self._tool.max_output_chars, note)
        return ToolResult(status=result.status, output=text, wall_s=result.wall_s)

    async def close(self) -> None:
        """Ends the session, if there is one; safe to call twice."""
        if self._session is not None:
            await self._session.close()


def _shown(result: ProgramResult, max_chars: int, note: str) -> str:
    """The text that the policy sees: never empty, without closing newlines, at most `max_chars` long with its note."""
    text = LIMIT_MESSAGES.get(result.status, result.output).rstrip("\n") or NO_OUTPUT
    if len(text) + len(note) <= max_chars:
        return text + note
    kept = max_chars - len(CUT_MARK) - len(note)
    return text[: kept - kept // 2] + CUT_MARK + text[len(text) - kept // 2 :] + note
