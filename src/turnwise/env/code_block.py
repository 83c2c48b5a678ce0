"""`env.tool_format=code_block`: a call is a fenced block of the tool's language.

A code block is the lines between an opening line, three or more backticks followed by the language, and a closing
line of at least as many backticks and nothing else. Anything else that starts a line with three backticks is
a malformed call. Shorter runs of backticks inside a block, and backticks inside a line, are plain text.
"""

import re
import textwrap
from dataclasses import dataclass

from turnwise.env.tool_call import ParsedTurn, ToolSignature
from turnwise.types import ToolCall

NOT_CLOSED = "code block is not closed"

_FENCE = re.compile(r"([ \t]*)(`{3,})(.*)")


def parse_code_blocks(text: str, tool: ToolSignature) -> ParsedTurn:
    """The blocks of a turn and the lines outside of them.

    Args:
        text: What the policy said in the turn.
        tool: Its name is what the opening line of a well-formed block says; the block is its argument.
    """
    blocks, prose = _split(text)
    return ParsedTurn(tuple(_call(block, tool.name) for block in blocks), prose)


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
