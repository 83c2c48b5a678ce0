"""The formats that `env.tool_format` chooses from, and the one way to read a turn in any of them."""

from enum import StrEnum

from turnwise.env.code_block import parse_code_blocks
from turnwise.env.hermes_json import parse_hermes_json
from turnwise.env.tool_call import ParsedTurn, ToolSignature


class ToolFormat(StrEnum):
    """How a policy writes the calls of a tool."""

    code_block = "code_block"
    hermes_json = "hermes_json"

    @property
    def mark(self) -> str:
        """What every call in this format begins with, and so what a prompt that explains it shows."""
        return _MARKS[self]


_MARKS = {ToolFormat.code_block: "```", ToolFormat.hermes_json: "<tool_call>"}
_PARSERS = {ToolFormat.code_block: parse_code_blocks, ToolFormat.hermes_json: parse_hermes_json}


def parse_turn(text: str, tool_format: ToolFormat, tool: ToolSignature) -> ParsedTurn:
    """The calls of `tool` in a turn, and the text outside of them; marks of another format are plain text.

    Args:
        text: What the policy said in the turn.
        tool_format: How calls are written.
        tool: What a well-formed call names.
    """
    return _PARSERS[tool_format](text, tool)
