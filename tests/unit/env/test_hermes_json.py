import json
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.env.hermes_json import parse_hermes_json
from turnwise.env.tool_call import ToolSignature
from turnwise.types import ToolCall

PYTHON = ToolSignature("python", "code")
CLOSED = "tool call is not closed"
NOT_JSON = "tool call is not valid JSON: Expecting property name enclosed in double quotes at character 2"
OPENED = "tool call is not opened"
PIECES = (
    "<tool_call>",
    "</tool_call>",
    '{"name": "python", "arguments": ',
    '{"code": "',
    '"}',
    "}",
    '"',
    "\\",
    "x",
    "\n",
)
FRAGMENTS = st.lists(st.sampled_from([*PIECES, "[", "{", ",", ":", "\\ud800", "\\boxed{1}", "1e999", "NaN", "```"]))


def tagged(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


def call(code: str) -> str:
    return tagged(json.dumps({"name": "python", "arguments": {"code": code}}))


def arguments(value: str) -> str:
    """A call of Python with what stands for its arguments."""
    return f'{{"name": "python", "arguments": {value}}}'


def errors(text: str) -> list[str | None]:
    return [call.error for call in parse_hermes_json(text, PYTHON).calls]


@pytest.mark.parametrize(
    "code",
    [
        "print(6 * 7)",
        "for i in x:\n    print(i)\n",
        "print('</tool_call>')",
        "s = '<tool_call>{\"name\": 1}</tool_call>'\nprint(s)",
        "s = '''\n```\n'''",
        "print('\\boxed{1}')",
        "print('\u2028é\U0001f600\0')",
    ],
)
def test_code_is_what_the_string_says(code: str):
    turn = parse_hermes_json(f"First.\n{call(code)}\nThen.", PYTHON)
    assert turn.calls == (ToolCall(code=code),)
    assert turn.prose == "First.\n\n\nThen."


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>',
        '<tool_call>\r\n {"arguments":{"code":"1"},"name":"python"}\t</tool_call>',
        'text <tool_call>{"name": "pyth\\u006fn", "arguments": {"code": "1"}}</tool_call> text',
        '```json\n<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>\n```',
    ],
)
def test_well_formed_calls(text: str):
    assert parse_hermes_json(text, PYTHON).calls == (ToolCall(code="1"),)


def test_calls_are_found_in_order():
    turn = parse_hermes_json(call("a") + call("b") + "\n" + call("c"), PYTHON)
    assert [call.code for call in turn.calls] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "tool call is not valid JSON: Expecting value at character 1"),
        ("print(1)", "tool call is not valid JSON: Expecting value at character 1"),
        ('{"name": "python" "arguments": {}}', "tool call is not valid JSON: Expecting ',' delimiter at character 19"),
        (arguments('{"code": "1\n2"}'), "tool call is not valid JSON: Invalid control character at character 44"),
        (arguments('{"code": "1"}') + "}", "tool call is not valid JSON: Extra data at character 47"),
        (arguments('{"code": "1"}') * 2, "tool call is not valid JSON: Extra data at character 47"),
        ("[" * 100_000, "tool call is nested too deeply"),
        ('{"a":' * 100_000, "tool call is nested too deeply"),
        ("9" * 100_000, "tool call must be a JSON object"),
        (f"[{call('1')[12:-12]}]", "tool call must be a JSON object"),
        ("null", "tool call must be a JSON object"),
        ("{}", "tool call lacks 'name'"),
        ('{"name": "python"}', "tool call lacks 'arguments'"),
        ('{"name": "python", "parameters": {"code": "1"}}', "tool call lacks 'arguments'"),
        (arguments('{"code": "1"}, "id": 7'), "tool call has the unknown key 'id'"),
        ('{"name": "python", "name": "python", "arguments": {}}', "the key 'name' stands twice"),
        (arguments('{"code": "1", "code": "2"}'), "the key 'code' stands twice"),
        ('{"name": ["python"], "arguments": {"code": "1"}}', "'name' must be a string"),
        ('{"name": "sh", "arguments": {"code": "1"}}', "unknown tool 'sh', expected 'python'"),
        ('{"name": "Python", "arguments": {"code": "1"}}', "unknown tool 'Python', expected 'python'"),
        ('{"name": "", "arguments": {"code": "1"}}', "unknown tool '', expected 'python'"),
        (f'{{"name": "{"x" * 99}", "arguments": {{}}}}', f"unknown tool '{'x' * 20}', expected 'python'"),
        ('{"name": "\\ud800", "arguments": {}}', "unknown tool '\\ud800', expected 'python'"),
        (arguments("null"), "'arguments' must be a JSON object"),
        (arguments('"{\\"code\\": \\"1\\"}"'), "'arguments' must be a JSON object"),
        (arguments("{}"), "'arguments' lacks 'code'"),
        (arguments('{"Code": "1"}'), "'arguments' lacks 'code'"),
        (arguments('{"code": "1", "timeout": 5}'), "'arguments' has the unknown key 'timeout'"),
        (arguments('{"code": 1}'), "'code' must be a string"),
        (arguments('{"code": NaN}'), "'code' must be a string"),
        (arguments('{"code": ["1"]}'), "'code' must be a string"),
        (arguments('{"code": null}'), "'code' must be a string"),
        (arguments('{"code": ""}'), "'code' is empty"),
        (arguments('{"code": " \\n"}'), "'code' is empty"),
        (arguments('{"code": "\\ud83d"}'), "'code' holds half a character: a \\u escape of a pair stands alone"),
    ],
    ids=lambda value: value[:40],
)
def test_malformed_calls_name_their_error(body: str, error: str):
    turn = parse_hermes_json(tagged(body) + "Then.", PYTHON)
    assert turn.calls == (ToolCall(code=body, error=error),)
    assert turn.prose == "\nThen."


@pytest.mark.parametrize(
    ("text", "calls", "prose"),
    [
        ("<tool_call>", [("", CLOSED)], "\n"),
        (f"So <tool_call>{arguments('{}')}", [(arguments("{}"), CLOSED)], "So \n"),
        ("<tool_call>\n{'a'", [("{'a'", CLOSED)], "\n"),
        (f"<tool_call>{{{call('1')}!", [("{", CLOSED), ("1", None)], "\n\n!"),
        (f"<tool_call>{arguments('{}')} {call('1')}", [(arguments("{}"), CLOSED), ("1", None)], "\n\n"),
        # A quote too many: the call ends at the next tag, and takes neither the answer nor the next call along.
        (
            f"<tool_call>{{'a': \"}}</tool_call>\\boxed{{1}}{call('1')}",
            [("{'a': \"}", NOT_JSON), ("1", None)],
            "\n\\boxed{1}\n",
        ),
        ("so </tool_call>.", [("", OPENED)], "so \n."),
        (f"{call('1')}</tool_call>", [("1", None), ("", OPENED)], "\n\n"),
        ("<tool_call >{}</tool_call >", [], "<tool_call >{}</tool_call >"),
        ("<TOOL_CALL>{}</TOOL_CALL>", [], "<TOOL_CALL>{}</TOOL_CALL>"),
        ("```python\nprint(1)\n```", [], "```python\nprint(1)\n```"),
        ("", [], ""),
    ],
)
def test_tags_that_do_not_pair(text: str, calls: list[tuple[str, str | None]], prose: str):
    turn = parse_hermes_json(text, PYTHON)
    assert [(call.code, call.error) for call in turn.calls] == calls
    assert turn.prose == prose


def test_an_argument_of_another_name():
    turn = parse_hermes_json(
        '<tool_call>{"name": "find", "arguments": {"key": "7"}}</tool_call>', ToolSignature("find", "key")
    )
    assert turn.calls == (ToolCall(code="7"),)


@settings(deadline=None)
@given(FRAGMENTS.map("".join) | st.text())
def test_arbitrary_text_is_read_without_exception_and_can_be_written(text: str):
    for call in parse_hermes_json(text, PYTHON).calls:
        assert call.code.strip() or call.error
        (call.error or call.code).encode()


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_code_that_json_can_carry_comes_through(code: str):
    (parsed,) = parse_hermes_json(call(code), PYTHON).calls
    assert parsed.code == code if code.strip() else parsed.error


def test_the_depth_of_the_caller_decides_no_verdict():
    def deep(levels: int) -> list[str | None]:
        return (
            deep(levels - 1) if levels else errors(tagged(arguments('{"code": "1"}')) + tagged("[" * 400 + "]" * 400))
        )

    free = sys.getrecursionlimit() - 200
    for levels in (0, free - 200):
        (good, bad) = deep(levels)
        assert good is None
        assert bad is not None


def test_hostile_text_takes_linear_time():
    start = time.process_time()
    for piece in (
        "<tool_call>",
        "</tool_call>",
        '<tool_call>{"',
        "<tool_call>[[[[",
        '<tool_call>"\\',
        '\\"',
        '{"a":',
        " ",
    ):
        parse_hermes_json("<tool_call>" + piece * 20_000, PYTHON)
        parse_hermes_json(piece * 20_000 + "</tool_call>", PYTHON)
    assert time.process_time() - start < 5
