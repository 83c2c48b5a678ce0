r"""Reads a turn's text: code blocks are tool calls, `\boxed{...}` outside of them is the final answer.

A code block is the lines between an opening line, three or more backticks followed by the language, and a closing
line of at least as many backticks and nothing else. Anything else that starts a line with three backticks is
a malformed call. Shorter runs of backticks inside a block, and backticks inside a line, are plain text.
"""

import re
import textwrap
from dataclasses import dataclass

from turnwise.types import ToolCall

NOT_CLOSED = "code block is not closed"

_FENCE = re.compile(r"([ \t]*)(`{3,})(.*)")
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def parse_tool_calls(text: str, language: str) -> tuple[ToolCall, ...]:
    """The calls of a turn in order; a malformed one says in `error` what is wrong with it, in a few words.

    Args:
        text: What the policy said in the turn.
        language: What the opening line of a well-formed block names.
    """
    blocks, _ = _split(text)
    return tuple(_call(block, language) for block in blocks)


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


@dataclass(frozen=True, slots=True)
class _Block:
    """One code block: what its opening line says and holds, and what is wrong with its fences."""

    code: str
    language: str = ""
    is_indented: bool = False
    error: str | None = None


def _split(text: str) -> tuple[list[_Block], str]:
    """Code blocks and the text around them."""
    blocks: list[_Block] = []
    prose: list[str] = []
    lines: list[str] = []
    opening: re.Match[str] | None = None
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line.rstrip())
        if opening is None:
            if fence is None:
                prose.append(line)
            elif "```" in fence[3]:
                blocks.append(_Block("", error="code must start on its own line"))
            else:
                opening = fence
        elif fence is None or len(fence[2]) < len(opening[2]):
            lines.append(line)
        elif not fence[3]:
            blocks.append(_Block("\n".join(lines), opening[3].strip(), bool(opening[1])))
            opening, lines = None, []
        else:
            blocks.append(_Block("\n".join(lines), error=NOT_CLOSED))
            opening, lines = fence, []
    if opening is not None:
        blocks.append(_Block("\n".join(lines), error=NOT_CLOSED))
    return blocks, "\n".join(prose)


def _call(block: _Block, language: str) -> ToolCall:
    if block.error is not None:
        return ToolCall(code=block.code, error=block.error)
    if block.language != language:
        name = f"unknown tool '{block.language[:20]}'" if block.language else "code block names no tool"
        return ToolCall(code=block.code, error=f"{name}, expected '{language}'")
    if not block.code.strip():
        return ToolCall(code=block.code, error="code block is empty")
    return ToolCall(code=textwrap.dedent(block.code) if block.is_indented else block.code)
