r"""Reads a turn's text: Python code blocks are tool calls, `\boxed{...}` outside of them is the final answer.

A code block is the lines between an opening line, three or more backticks followed by `python`, and a closing
line of at least as many backticks and nothing else. Anything else that starts a line with three backticks is
a malformed call. Shorter runs of backticks inside a block, and backticks inside a line, are plain text.
"""

import re
import textwrap

from turnwise.types import ToolCall

LANGUAGE = "python"

_FENCE = re.compile(r"([ \t]*)(`{3,})(.*)")
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def parse_tool_calls(text: str) -> tuple[ToolCall, ...]:
    """The calls of a turn in order; a malformed one says in `error` what is wrong with it, in a few words."""
    calls, _ = _split(text)
    return calls


def extract_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` outside code blocks; None without one that is closed and not blank.

    Braces nest, escaped braces do not count; of nested boxes the innermost wins.
    """
    _, prose = _split(text)
    answer, answer_start = None, -1
    open_braces: list[tuple[bool, int]] = []
    for match in _BRACES.finditer(prose):
        token = match.group()
        if token.endswith("{") and token != "\\{":
            open_braces.append((token != "{", match.end()))
        elif token == "}" and open_braces:
            is_box, start = open_braces.pop()
            content = prose[start : match.start()].strip()
            if is_box and content and start > answer_start:
                answer, answer_start = content, start
    return answer


def _split(text: str) -> tuple[tuple[ToolCall, ...], str]:
    """Code blocks and the text around them."""
    calls: list[ToolCall] = []
    prose: list[str] = []
    block: list[str] = []
    opening: re.Match[str] | None = None
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line.rstrip())
        if opening is None:
            if fence is None:
                prose.append(line)
            elif "```" in fence[3]:
                calls.append(ToolCall(code="", error="code must start on its own line"))
            else:
                opening = fence
        elif fence is None or len(fence[2]) < len(opening[2]):
            block.append(line)
        elif not fence[3]:
            calls.append(_close(opening, block))
            opening, block = None, []
        else:
            calls.append(ToolCall(code="\n".join(block), error="code block is not closed"))
            opening, block = fence, []
    if opening is not None:
        calls.append(ToolCall(code="\n".join(block), error="code block is not closed"))
    return tuple(calls), "\n".join(prose)


def _close(opening: re.Match[str], block: list[str]) -> ToolCall:
    indent, _, language = opening.groups()
    code = "\n".join(block)
    if language.strip() != LANGUAGE:
        name = f"unknown tool '{language.strip()[:20]}'" if language.strip() else "code block names no tool"
        return ToolCall(code=code, error=f"{name}, expected '{LANGUAGE}'")
    if not code.strip():
        return ToolCall(code=code, error="code block is empty")
    return ToolCall(code=textwrap.dedent(code) if indent else code)
