"""What a turn thinks, with a tool in both formats and without one."""

import asyncio
import json

import pytest

from builders import problem
from turnwise.env.calculator import Calculator
from turnwise.env.no_tool import NoTool
from turnwise.env.thinking import after_thinking
from turnwise.env.tool_format import ToolFormat
from turnwise.types import Message, StepResult, StopReason

BLOCK, TAG = ToolFormat.code_block, ToolFormat.hermes_json


def call(tool_format: ToolFormat, operation: str) -> str:
    if tool_format is BLOCK:
        return f"```calculator\n{operation}\n```"
    body = json.dumps({"name": "calculator", "arguments": {"operation": operation}})
    return f"<tool_call>\n{body}\n</tool_call>"


def step(tool_format: ToolFormat, text: str) -> StepResult:
    return asyncio.run(Calculator(tool_format=tool_format).start().episode(problem()).step(text))


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("", ""),
        ("So 4.", "So 4."),
        ("<think>\n2 + 2\n</think>\n\nSo 4.", "\n\nSo 4."),
        ("\n <think></think>So 4.", "So 4."),
        ("<think>a</think>\n<think>b</think>So 4.", "So 4."),
        ("<think>a</think>So </think> 4.", "So </think> 4."),
        ("<think>a <think> b</think>So 4.", "So 4."),
        ("<think>\n2 + 2 is \\boxed{4}", ""),
        ("<think>a</think><think>b", ""),
        ("So <think>4</think>", "So <think>4</think>"),
        ("4</think>", "4</think>"),
        ("<thinking>4", "<thinking>4"),
    ],
)
def test_what_is_left_after_thinking(text: str, rest: str) -> None:
    assert after_thinking(text) == rest


@pytest.mark.parametrize("tool_format", list(ToolFormat))
def test_a_thought_holds_neither_answers_nor_calls(tool_format: ToolFormat) -> None:
    thought = f"<think>\nIs it \\boxed{{7}}? {call(tool_format, '2 + 5')}\n</think>\n\n"
    answered = step(tool_format, f"{thought}\\boxed{{8}}")
    assert (answered.stop_reason, answered.answer, answered.tool_calls) == (StopReason.answered, "8", ())
    called = step(tool_format, f"{thought}{call(tool_format, '4 * 3')}")
    assert called.messages == (Message(role="tool", content="12"),)
    assert [one.code for one in called.tool_calls] == ["4 * 3"]
    assert step(tool_format, f"{thought}I do not know.").stop_reason is StopReason.void_turn


@pytest.mark.parametrize("tool_format", list(ToolFormat))
def test_a_malformed_call_in_a_thought_is_no_error(tool_format: ToolFormat) -> None:
    thought = f"<think>\nPerhaps {tool_format.mark}calculator\n</think>\n"
    result = step(tool_format, f"{thought}{call(tool_format, '4 * 3')}")
    assert [one.error for one in result.tool_calls] == [None]


@pytest.mark.parametrize("tool_format", list(ToolFormat))
def test_a_turn_that_never_stops_thinking_is_void(tool_format: ToolFormat) -> None:
    result = step(tool_format, f"<think>\n\\boxed{{7}} {call(tool_format, '2 + 5')}")
    assert result == StepResult(stop_reason=StopReason.void_turn)


def test_without_a_tool_too() -> None:
    def alone(text: str) -> StepResult:
        return asyncio.run(NoTool().start().episode(problem()).step(text))

    assert alone("<think>\\boxed{1}</think>\\boxed{2}").answer == "2"
    assert alone("<think>\\boxed{1}</think>Well.").stop_reason is StopReason.void_turn
    assert alone("<think>\\boxed{1}").stop_reason is StopReason.void_turn


def test_many_thoughts_take_time_in_proportion_to_their_length() -> None:
    thoughts = "<think>a</think>" * 20_000  # quadratic time would be minutes
    assert after_thinking(thoughts + "b") == "b"
    assert after_thinking(f"{thoughts}<think>") == ""
    assert after_thinking("<think>" * 50_000) == ""
