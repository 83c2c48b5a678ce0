import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.env.code_block import parse_code_blocks
from turnwise.env.tool_call import ToolSignature
from turnwise.types import ToolCall

PYTHON = ToolSignature("python", "code")
CLOSED = "code block is not closed"
FRAGMENTS = st.lists(
    st.sampled_from(["```", "````", "python", "\n", " ", "\\boxed{", "\\", "{", "}", "1", "x\r\n", "\u2028", "\0"])
)


def test_blocks_are_found_in_order_with_their_exact_code():
    text = "First.\n```python\nx = 2\nprint(x)\n```\nThen:\n```python\nprint('\u2028\f')\n```"
    assert parse_code_blocks(text, PYTHON).calls == (
        ToolCall(code="x = 2\nprint(x)"),
        ToolCall(code="print('\u2028\f')"),
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\r\nprint(1)\r\n```\r\n", "print(1)\r"),
        ("```python  \nprint(1)\n```  ", "print(1)"),
        ("``` python\nprint(1)\n```", "print(1)"),
        ("- so:\n  ```python\n  for i in x:\n      print(i)\n  ```", "for i in x:\n    print(i)"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("```python\nprint('```')\n```", "print('```')"),
        ("```python\nprint(1)\n````", "print(1)"),
    ],
)
def test_well_formed_blocks(text: str, code: str):
    assert parse_code_blocks(text, PYTHON).calls == (ToolCall(code=code),)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("```python\nprint(1)", [("print(1)", CLOSED)]),
        ("```python\nprint(1)```", [("print(1)```", CLOSED)]),
        ("```python", [("", CLOSED)]),
        ("```", [("", CLOSED)]),
        ("```\nprint(1)\n```", [("print(1)", "code block names no tool, expected 'python'")]),
        ("```bash\nls\n```", [("ls", "unknown tool 'bash', expected 'python'")]),
        ("```Python\n1\n```", [("1", "unknown tool 'Python', expected 'python'")]),
        ("```python title\n1\n```", [("1", "unknown tool 'python title', expected 'python'")]),
        (f"```{'x' * 99}\n1\n```", [("1", f"unknown tool '{'x' * 20}', expected 'python'")]),
        ("```python\n```", [("", "code block is empty")]),
        ("```python\n \n\n```", [(" \n", "code block is empty")]),
        ("```python print(1)```", [("", "code must start on its own line")]),
        ("```python\na\n```python\nb\n```", [("a", CLOSED), ("b", None)]),
        ("```python\na\n```\n```\n", [("a", None), ("", CLOSED)]),
    ],
)
def test_malformed_blocks_name_their_error(text: str, calls: list[tuple[str, str | None]]):
    assert [(call.code, call.error) for call in parse_code_blocks(text, PYTHON).calls] == calls


@pytest.mark.parametrize("text", ["", "print(1)", "use `x` and ``y``", "say ```python\n", "~~~python\nprint(1)\n~~~"])
def test_text_without_a_fence_at_the_start_of_a_line_holds_no_call(text: str):
    assert parse_code_blocks(text, PYTHON).calls == ()


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("one\n```python\nprint(1)\n```\ntwo", "one\ntwo"),
        ("one\n```sh\nls\n```\ntwo\n```python\nprint(1)", "one\ntwo"),
        ("use `x` and ``y``", "use `x` and ``y``"),
        ("", ""),
    ],
)
def test_prose_is_what_stands_outside_of_blocks(text: str, prose: str):
    assert parse_code_blocks(text, PYTHON).prose == prose


@settings(deadline=None)
@given(FRAGMENTS.map("".join) | st.text())
def test_arbitrary_text_is_read_without_exception(text: str):
    for call in parse_code_blocks(text, PYTHON).calls:
        assert call.error is not None or call.code.strip()


def test_hostile_text_takes_linear_time():
    start = time.perf_counter()
    for piece in ("```\n", "```python\n", "`"):
        parse_code_blocks(piece * 20_000, PYTHON)
    assert time.perf_counter() - start < 3
