"""The turn protocol with a tool that echoes; `test_python_tool.py` and `test_calculator.py` play it for real."""

import asyncio

import pytest

from builders import problem
from turnwise.env.calculator import Calculator
from turnwise.env.code_block import parse_code_blocks
from turnwise.env.conversation import ToolConversation
from turnwise.env.tool_call import ParsedTurn, ToolSignature
from turnwise.protocols import Environment
from turnwise.types import Message, StepResult, StopReason, ToolCall, ToolResult, ToolStatus


class Echo:
    """Replies with the code that it is given; fails when it is told to."""

    def __init__(self) -> None:
        self.given: list[tuple[str, ...]] = []
        self.num_closed = 0

    def parse(self, turn_text: str) -> ParsedTurn:
        return parse_code_blocks(turn_text, ToolSignature("echo", "text"))

    async def run(self, calls: tuple[ToolCall, ...]) -> ToolResult:
        self.given.append(tuple(call.code for call in calls))
        status = ToolStatus.infrastructure if self.given[-1] == ("fail",) else ToolStatus.ok
        return ToolResult(status=status, output=" ".join(self.given[-1]), wall_s=0.0)

    async def close(self) -> None:
        self.num_closed += 1


def step(text: str) -> tuple[StepResult, Echo]:
    tool = Echo()
    episode: Environment = ToolConversation(tool, Calculator(), problem())
    return asyncio.run(episode.step(text)), tool


def test_calls_of_a_turn_run_together_and_the_reply_is_the_output():
    result, tool = step("```echo\na\n```\n```echo\nb\n```")
    assert result.messages == (Message(role="tool", content="a b"),)
    assert tool.given == [("a", "b")]


def test_an_answer_beside_a_call_ends_the_episode_and_runs_nothing():
    result, tool = step("```echo\na\n```\n\\boxed{3}")
    assert (result.stop_reason, result.answer, len(result.tool_calls)) == (StopReason.answered, "3", 1)
    assert tool.given == []


def test_the_first_error_is_told_and_nothing_runs():
    result, tool = step("```echo\na\n```\n```sh\nb\n```\n```echo")
    assert [message.content for message in result.messages] == ["Error: unknown tool 'sh', expected 'echo'"]
    assert tool.given == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [("words", StopReason.void_turn), ("```echo\nfail\n```", StopReason.tool_infrastructure)],
)
def test_void_turns_and_failures_end_the_episode(text: str, reason: StopReason):
    result, _ = step(text)
    assert (result.stop_reason, result.messages) == (reason, ())


def test_no_step_after_the_end():
    async def run() -> None:
        episode = ToolConversation(Echo(), Calculator(), problem())
        await episode.step("words")
        await episode.close()
        with pytest.raises(RuntimeError, match="'p0' is over"):
            await episode.step("```echo\na\n```")

    asyncio.run(run())


def test_the_end_of_an_episode_is_that_of_what_its_tool_holds():
    tool = Echo()
    asyncio.run(ToolConversation(tool, Calculator(), problem()).close())
    assert tool.num_closed == 1
