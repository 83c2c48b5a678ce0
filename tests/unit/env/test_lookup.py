import asyncio
import json

import pytest

from turnwise.env.lookup import Lookup
from turnwise.env.tool_format import ToolFormat
from turnwise.key_values import KeyValueStore
from turnwise.protocols import Environment, EnvironmentPool
from turnwise.task.lookup import Lookup as LookupTask
from turnwise.types import Message, Problem, StepResult, StopReason, ToolStatus

STATEMENT = "Look up the key 4711. What is the last value?"
PROBLEM = Problem(id="p0", prompt=(Message(role="user", content=STATEMENT),), answer="1", source="test")
VALUE = KeyValueStore(name=STATEMENT)


def block(key: str) -> str:
    return f"```lookup\n{key}\n```"


def tagged(key: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'lookup', 'arguments': {'key': key}})}</tool_call>"


WRITTEN = [(ToolFormat.code_block, block), (ToolFormat.hermes_json, tagged)]


def step(text: str, tool_format: ToolFormat = ToolFormat.code_block) -> StepResult:
    pool: EnvironmentPool = Lookup(tool_format=tool_format).start()
    episode: Environment = pool.episode(PROBLEM)
    return asyncio.run(episode.step(text))


@pytest.mark.parametrize(("tool_format", "call"), WRITTEN)
def test_a_key_is_answered_by_its_value(tool_format: ToolFormat, call):
    result = step(call("4711"), tool_format)
    assert result.messages == (Message(role="tool", content=VALUE["4711"]),)
    assert result.tool_result is not None
    assert (result.tool_result.status, result.tool_calls[0].code) == (ToolStatus.ok, "4711")


@pytest.mark.parametrize(("tool_format", "call"), WRITTEN)
def test_several_keys_are_answered_in_their_order(tool_format: ToolFormat, call):
    result = step(call("4711") + "\n" + call(" 1000\n"), tool_format)
    assert [message.content for message in result.messages] == [f"{VALUE['4711']}\n{VALUE['1000']}"]


@pytest.mark.parametrize(("key", "shown"), [("47", "47"), ("two\nkeys", "two\\nkeys"), ("9" * 100_000, "9" * 20)])
def test_a_missing_key_is_the_callers_error(key: str, shown: str):
    result = step(block("4711") + "\n" + block(key))
    assert result.tool_result is not None
    assert (result.tool_result.status, result.tool_result.output) == (ToolStatus.user_error, f"KeyError: '{shown}'")
    assert not any(call.error for call in result.tool_calls)


def test_malformed_calls_name_their_error():
    assert [m.content for m in step("```python\n4711\n```").messages] == [
        "Error: unknown tool 'python', expected 'lookup'"
    ]
    code = '<tool_call>{"name": "lookup", "arguments": {"code": "4711"}}</tool_call>'
    assert [m.content for m in step(code, ToolFormat.hermes_json).messages] == ["Error: 'arguments' lacks 'key'"]


@pytest.mark.parametrize(("tool_format", "call"), WRITTEN)
@pytest.mark.parametrize("num_hops", [1, 3, 8])
def test_whoever_follows_the_keys_gets_to_the_answer(tool_format: ToolFormat, call, num_hops: int):
    """A scripted policy that reads the first key from the statement, and every other one from the tool."""

    async def play(problem: Problem, pool: EnvironmentPool) -> StepResult:
        episode = pool.episode(problem)
        key = problem.prompt[0].content.removeprefix("Look up the key ")[:4]
        for _ in range(num_hops):
            (reply,) = (await episode.step(call(key))).messages
            key = reply.content
        result = await episode.step(f"The last value is \\boxed{{{key}}}.")
        await episode.close()
        return result

    pool = Lookup(tool_format=tool_format).start()
    for problem in LookupTask(num_hops=num_hops).start(0).next_batch(5):
        result = asyncio.run(play(problem, pool))
        assert (result.stop_reason, result.answer) == (StopReason.answered, problem.answer)
    asyncio.run(pool.close())
