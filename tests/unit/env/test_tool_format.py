"""What becomes of a turn, in either format: the table of docs/ARCHITECTURE.md, played against a tool that echoes."""

import asyncio
import json

import pytest

from builders import problem, trajectory
from turnwise.env.calculator import Calculator
from turnwise.env.conversation import ToolConversation
from turnwise.env.tool_call import ParsedTurn, ToolSignature
from turnwise.env.tool_format import ToolFormat, parse_turn
from turnwise.types import StepResult, StopReason, ToolCall, ToolResult, ToolStatus

SIGNATURE = ToolSignature("echo", "text")


class Echo:
    """Replies with what it is given."""

    def __init__(self, tool_format: ToolFormat) -> None:
        self._tool_format = tool_format

    def parse(self, turn_text: str) -> ParsedTurn:
        return parse_turn(turn_text, self._tool_format, SIGNATURE)

    async def run(self, calls: tuple[ToolCall, ...]) -> ToolResult:
        return ToolResult(status=ToolStatus.ok, output=" ".join(call.code for call in calls), wall_s=0.0)

    async def close(self) -> None:
        pass


def block(text: str) -> str:
    return f"```echo\n{text}\n```\n"


def tagged(text: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'echo', 'arguments': {'text': text}})}</tool_call>\n"


def body(text: str) -> str:
    return f"<tool_call>{text}</tool_call>"


CALL = {ToolFormat.code_block: block, ToolFormat.hermes_json: tagged}
BLOCK, TAG = ToolFormat.code_block, ToolFormat.hermes_json
BOX = "So \\boxed{7}.\n"

SOUND = [
    ("one call", lambda call: call("a"), "a"),
    ("several calls run together", lambda call: call("a") + "and\n" + call("b"), "a b"),
    ("an answer inside a call is none", lambda call: call("\\boxed{1}"), "\\boxed{1}"),
    ("marks of the other format inside a call", lambda call: call("<tool_call> ``` </tool_call>"), None),
    ("an answer that is not closed is none", lambda call: call("a") + "\\boxed{7", "a"),
]
ANSWERED = [
    ("an answer", lambda call: BOX, ()),
    ("an answer before a call", lambda call: BOX + call("a"), (None,)),
    ("an answer after a call", lambda call: call("a") + BOX, (None,)),
    ("an answer between calls", lambda call: call("a") + BOX + call("b"), (None, None)),
]
MALFORMED = [
    ("not closed", BLOCK, "```echo\na", "code block is not closed"),
    ("not closed", TAG, "<tool_call>{}", "tool call is not closed"),
    ("an answer in a call that is not closed", BLOCK, "```echo\n" + BOX, "code block is not closed"),
    ("an answer in a call that is not closed", TAG, "<tool_call>" + BOX, "tool call is not closed"),
    ("not opened", BLOCK, "a\n```", "code block is not closed"),  # its closing line opens a block that names nothing
    ("not opened", TAG, "{}</tool_call>", "tool call is not opened"),
    ("nested", BLOCK, "```echo\n```echo\na\n```\n```", "code block is not closed"),
    ("nested", TAG, f"<tool_call>{tagged('a')}</tool_call>", "tool call is not closed"),
    ("not decodable", BLOCK, "```echo a```", "code must start on its own line"),
    ("not decodable", TAG, body("{a}"), "tool call is not valid JSON: "),
    ("unknown tool", BLOCK, "```sh\na\n```", "unknown tool 'sh', expected 'echo'"),
    ("unknown tool", TAG, body('{"name": "sh", "arguments": {}}'), "unknown tool 'sh', expected 'echo'"),
    ("no tool", BLOCK, "```\na\n```", "code block names no tool, expected 'echo'"),
    ("no tool", TAG, body('{"arguments": {"text": "a"}}'), "tool call lacks 'name'"),
    ("missing argument", TAG, body('{"name": "echo", "arguments": {}}'), "'arguments' lacks 'text'"),
    (
        "surplus argument",
        TAG,
        body('{"name": "echo", "arguments": {"text": "a", "n": 1}}'),
        "'arguments' has the unknown",
    ),
    ("wrong type", TAG, body('{"name": "echo", "arguments": {"text": 1}}'), "'text' must be a string"),
    ("empty", BLOCK, "```echo\n\n```", "code block is empty"),
    ("empty", TAG, body('{"name": "echo", "arguments": {"text": " "}}'), "'text' is empty"),
]
FOREIGN = [(BLOCK, tagged("a")), (TAG, block("a")), (BLOCK, "words"), (TAG, "words"), (BLOCK, ""), (TAG, "")]


def step(tool_format: ToolFormat, text: str) -> StepResult:
    return asyncio.run(ToolConversation(Echo(tool_format), Calculator(), problem()).step(text))


def errors(result: StepResult) -> tuple[str | None, ...]:
    return tuple(call.error for call in result.tool_calls)


@pytest.mark.parametrize("tool_format", ToolFormat)
@pytest.mark.parametrize(("situation", "write", "reply"), SOUND, ids=[row[0] for row in SOUND])
def test_sound_calls_are_run(tool_format: ToolFormat, situation: str, write, reply: str | None):
    result = step(tool_format, write(CALL[tool_format]))
    assert result.stop_reason is None
    assert set(errors(result)) == {None}
    assert [m.content for m in result.messages] == [reply or "<tool_call> ``` </tool_call>"]


@pytest.mark.parametrize("tool_format", ToolFormat)
@pytest.mark.parametrize(("situation", "write", "verdicts"), ANSWERED, ids=[row[0] for row in ANSWERED])
def test_an_answer_ends_the_episode_and_calls_beside_it_are_not_run(tool_format, situation: str, write, verdicts):
    result = step(tool_format, write(CALL[tool_format]))
    assert (result.stop_reason, result.answer, result.tool_result) == (StopReason.answered, "7", None)
    assert errors(result) == verdicts


@pytest.mark.parametrize(
    ("situation", "tool_format", "text", "error"), MALFORMED, ids=[f"{r[0]}-{r[1]}" for r in MALFORMED]
)
def test_a_malformed_call_is_answered_by_what_is_wrong_with_it(situation, tool_format, text: str, error: str):
    result = step(tool_format, text)
    assert (result.stop_reason, result.tool_result) == (None, None)
    (reply,) = result.messages
    assert (reply.role, reply.content[: len(error) + 7]) == ("tool", f"Error: {error}")


@pytest.mark.parametrize(
    ("situation", "tool_format", "text", "error"), MALFORMED, ids=[f"{r[0]}-{r[1]}" for r in MALFORMED]
)
def test_nothing_of_a_turn_with_a_malformed_call_runs(situation, tool_format, text: str, error: str):
    result = step(tool_format, f"{CALL[tool_format]('a')}\n{text}")
    assert (result.stop_reason, result.tool_result) == (None, None)
    assert result.messages[0].content.startswith(f"Error: {error}")
    assert errors(result)[0] is None


@pytest.mark.parametrize(
    ("tool_format", "text"),
    [(BLOCK, BOX + "```sh\nb\n```"), (TAG, BOX + body("[]")), (BLOCK, BOX + "```echo\nb"), (TAG, BOX + "<tool_call>")],
)
def test_a_malformed_call_beside_an_answer_still_costs_its_verdict(tool_format: ToolFormat, text: str):
    result = step(tool_format, text)
    assert (result.stop_reason, result.answer) == (StopReason.answered, "7")
    assert [error is not None for error in errors(result)] == [True]


@pytest.mark.parametrize(("tool_format", "text"), FOREIGN)
def test_calls_in_the_other_format_are_plain_text_and_the_turn_is_void(tool_format: ToolFormat, text: str):
    assert step(tool_format, text) == StepResult(stop_reason=StopReason.void_turn)


@pytest.mark.parametrize("tool_format", ToolFormat)
def test_every_call_shows_the_mark_of_its_format_and_of_no_other(tool_format: ToolFormat):
    assert [one for one in ToolFormat if one.mark in CALL[tool_format]("a")] == [tool_format]


def test_the_verdict_is_what_the_reward_reads():
    (call,) = step(TAG, body("{}")).tool_calls
    assert trajectory((call.code, None), errors=(call.error, None)).turns[0].has_format_error
