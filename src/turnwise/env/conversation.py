"""One episode of turns around a tool, whatever the tool is: who answers what, and when it is over."""

from typing import Protocol

from turnwise.env.opening import Opening, opening_messages
from turnwise.env.solution import Judge, fenced_programs, judged_end
from turnwise.env.thinking import after_thinking
from turnwise.env.tool_call import ParsedTurn, extract_boxed
from turnwise.types import Message, Problem, StepResult, StopReason, ToolCall, ToolResult, ToolStatus


class Tool(Protocol):
    """What a turn's calls are given to."""

    def parse(self, turn_text: str) -> ParsedTurn:
        """The calls of a turn, in order, and the text outside of them; a malformed call says what is wrong with it."""
        ...

    async def run(self, calls: tuple[ToolCall, ...]) -> ToolResult:
        """Runs the calls of one turn, all of them well-formed; the output is never empty."""
        ...

    async def close(self) -> None:
        """Ends what it holds for the episode; safe to call twice."""
        ...


class ToolConversation:
    """One episode; fulfils `Environment`. It holds its programs where they are judged, and whether it is over."""

    def __init__(self, tool: Tool, opening: Opening, problem: Problem, judge: Judge | None = None) -> None:
        """Sets it up.

        Args:
            tool: What calls are given to.
            opening: What stands before the problem's prompt.
            problem: Whose episode it is.
            judge: What runs the problem's tests, where it has any.

        Raises:
            ValueError: The problem has tests, and there is nothing to run them.
        """
        if problem.tests and judge is None:
            raise ValueError(f"problem {problem.id!r} has tests, which env=python_tool alone can run")
        self._tool = tool
        self._opening = opening
        self._problem = problem
        self._judge = judge
        self._programs: list[str] = []
        self._is_over = False

    def initial_messages(self) -> tuple[Message, ...]:
        """The system message and the worked examples, if there are any, and the problem's prompt."""
        return opening_messages(self._opening, self._problem)

    async def step(self, turn_text: str) -> StepResult:
        """Replies to one turn; the first of these that fits:

        1. A boxed answer outside of calls ends the episode; calls before and after it are reported but not run.
        2. A malformed call is answered by what is wrong with it; no call of that turn is run.
        3. Calls are run together and answered by the tool's output.
        4. Neither an answer nor a call: the turn is void and ends the episode.

        Where the problem has tests, a program is the answer: the last one of all turns, this one's included, that
        defines the entry point; where calls are written otherwise, one in a fenced block of the prose counts too. A
        box, whatever it holds, hands it in, and so does a turn without a call. Tests that could not be run end the
        episode as a tool that broke.

        What a turn thinks before it speaks counts for nothing; a turn that never stops thinking is void.

        Raises:
            RuntimeError: The episode is over.
        """
        if self._is_over:
            raise RuntimeError(f"the episode of problem {self._problem.id!r} is over")
        result = await self._reply(turn_text)
        self._is_over = result.stop_reason is not None
        return result

    async def close(self) -> None:
        """Ends the episode and what its tool holds for it; safe to call twice."""
        self._is_over = True
        await self._tool.close()

    async def _reply(self, turn_text: str) -> StepResult:
        turn = self._tool.parse(after_thinking(turn_text))
        calls = turn.calls
        if self._judge is not None:
            self._programs.extend(call.code for call in calls if call.error is None)
            self._programs.extend(fenced_programs(turn.prose))
        answer = extract_boxed(turn.prose)
        if self._judge is not None and (answer is not None or not calls):
            return await judged_end(self._judge, self._programs, answer, calls)
        if answer is not None:
            return StepResult(stop_reason=StopReason.answered, answer=answer, tool_calls=calls)
        if not calls:
            return StepResult(stop_reason=StopReason.void_turn)
        if errors := [call.error for call in calls if call.error is not None]:
            reply = Message(role="tool", content=f"Error: {errors[0]}")
            return StepResult(messages=(reply,), tool_calls=calls)
        result = await self._tool.run(calls)
        if result.status is ToolStatus.infrastructure:
            return StepResult(stop_reason=StopReason.tool_infrastructure, tool_calls=calls, tool_result=result)
        reply = Message(role="tool", content=result.output)
        return StepResult(messages=(reply,), tool_calls=calls, tool_result=result)
