"""`env=python_tool`: the policy writes Python code blocks, reads what they print, and ends with a boxed answer."""

from dataclasses import dataclass, field, replace

from turnwise.env.sandbox import ErrorDetail, Sandbox, SandboxPool
from turnwise.env.tool_call import extract_boxed, parse_tool_calls
from turnwise.types import Message, Problem, StepResult, StopReason, ToolResult, ToolStatus

NO_OUTPUT = "(no output)"
CUT_MARK = "\n...\n"
LIMIT_MESSAGES = {
    ToolStatus.timeout: "TimeoutError: program ran too long",
    ToolStatus.memory: "MemoryError: program used too much memory",
    ToolStatus.output_limit: "OutputError: program printed too much",
}
"""Shown in place of what such a program printed, which depends on when it was killed."""


@dataclass(frozen=True, kw_only=True)
class PythonTool:
    """A conversation with a Python interpreter that keeps nothing from one turn to the next."""

    sandbox: Sandbox = field(default_factory=Sandbox)
    """Where programs run, and under which limits."""

    system_prompt: str = ""
    """Placed before the problem's prompt as a system message; empty: no system message."""

    max_output_chars: int = 512
    """Characters of output that the policy sees; longer output loses its middle."""

    error_detail: ErrorDetail = ErrorDetail.last_line
    """What the policy sees of an uncaught exception: the last line, or the traceback of its own frames."""

    def __post_init__(self) -> None:
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

    def episode(self, problem: Problem) -> "PythonToolEnvironment":
        """A fresh episode of `problem`; episodes may run side by side and queue for the workers."""
        return PythonToolEnvironment(self._tool, self._sandbox_pool, problem)

    async def close(self) -> None:
        """Ends every worker process; safe to call twice."""
        await self._sandbox_pool.close()


class PythonToolEnvironment:
    """One episode; fulfils `Environment`. It holds nothing but whether it is over."""

    def __init__(self, tool: PythonTool, sandbox_pool: SandboxPool, problem: Problem) -> None:
        self._tool = tool
        self._sandbox_pool = sandbox_pool
        self._problem = problem
        self._is_over = False

    def initial_messages(self) -> tuple[Message, ...]:
        """The system message, if there is one, and the problem's prompt."""
        system = (Message(role="system", content=self._tool.system_prompt),) if self._tool.system_prompt else ()
        return system + self._problem.prompt

    async def step(self, turn_text: str) -> StepResult:
        """Replies to one turn; the first of these that fits:

        1. A boxed answer outside code blocks ends the episode; calls beside it are reported but not run.
        2. A malformed call is answered by what is wrong with it; no call of that turn is run.
        3. Calls are run together, as one program, and answered by what it printed.
        4. Neither an answer nor a call: the turn is void and ends the episode.

        Raises:
            RuntimeError: The episode is over.
        """
        if self._is_over:
            raise RuntimeError(f"the episode of problem {self._problem.id!r} is over")
        result = await self._reply(turn_text)
        self._is_over = result.stop_reason is not None
        return result

    async def close(self) -> None:
        """Ends the episode; safe to call twice. A program that it left running ends within its limits."""
        self._is_over = True

    async def _reply(self, turn_text: str) -> StepResult:
        calls = parse_tool_calls(turn_text)
        if (answer := extract_boxed(turn_text)) is not None:
            return StepResult(stop_reason=StopReason.answered, answer=answer, tool_calls=calls)
        if not calls:
            return StepResult(stop_reason=StopReason.void_turn)
        if errors := [call.error for call in calls if call.error is not None]:
            reply = Message(role="tool", content=f"Error: {errors[0]}")
            return StepResult(messages=(reply,), tool_calls=calls)
        program = "\n".join(call.code for call in calls)
        result = await self._sandbox_pool.run(program, self._tool.error_detail)
        if result.status is ToolStatus.infrastructure:
            return StepResult(stop_reason=StopReason.tool_infrastructure, tool_calls=calls, tool_result=result)
        result = replace(result, output=_shown(result, self._tool.max_output_chars))
        reply = Message(role="tool", content=result.output)
        return StepResult(messages=(reply,), tool_calls=calls, tool_result=result)


def _shown(result: ToolResult, max_chars: int) -> str:
    """The text that the policy sees: never empty, without closing newlines, at most `max_chars` long."""
    text = LIMIT_MESSAGES.get(result.status, result.output).rstrip("\n") or NO_OUTPUT
    if len(text) <= max_chars:
        return text
    kept = max_chars - len(CUT_MARK)
    return text[: kept - kept // 2] + CUT_MARK + text[len(text) - kept // 2 :]
