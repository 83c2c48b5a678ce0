r"""`env.tool_format=hermes_json`: a call is one JSON object between two tags, as Hermes and Qwen models write it.

    <tool_call>
    {"name": "python", "arguments": {"code": "print(6 * 7)"}}
    </tool_call>

Inside a JSON string the tags are plain text; everywhere else a tag is a tag, in code blocks too, which mean nothing
here. Well-formed is an object of exactly these two keys, with the tool's name and exactly its one argument, a string
that is not blank. Anything else is a malformed call, which reaches up to the next tag.
"""

import json
import re
from typing import Any

from turnwise.env.tool_call import ParsedTurn, ToolSignature
from turnwise.types import ToolCall

NOT_CLOSED = "tool call is not closed"
NOT_OPENED = "tool call is not opened"
MAX_QUOTED = 20
"""Characters of a name that an error repeats."""

_TAG = re.compile(r"<(?P<slash>/?)tool_call>")
_LEXEME = re.compile(r'\\"|"(?:[^"\\]++|\\.)*+"|' + _TAG.pattern, re.DOTALL)
"""What decides where a call ends: JSON strings, and the first tag outside of them. (An escaped quote opens no string,
so that of many quotes without an end only the first is followed through the text.)"""
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Malformed(ValueError):
    """What is wrong with a call, in a few words."""


class _NotJSON(_Malformed):
    """What stands between the tags cannot be decoded."""


def parse_hermes_json(text: str, tool: ToolSignature) -> ParsedTurn:
    """The calls of a turn and the text outside of them; takes time in proportion to the text.

    Args:
        text: What the policy said in the turn.
        tool: What a well-formed call names.
    """
    calls: list[ToolCall] = []
    prose: list[str] = []
    position = 0
    while tag := _TAG.search(text, position):
        prose.append(text[position : tag.start()])
        if tag["slash"]:
            call, position = ToolCall(code="", error=NOT_OPENED), tag.end()
        else:
            call, position = _call(text, tag.end(), tool)
        calls.append(call)
    return ParsedTurn(tuple(calls), "\n".join([*prose, text[position:]]))


def _call(text: str, start: int, tool: ToolSignature) -> tuple[ToolCall, int]:
    """The call whose opening tag ends at `start`, and where the text behind it begins."""
    tag = next((lexeme for lexeme in _LEXEME.finditer(text, start) if lexeme["slash"] is not None), None)
    code, error = "", None
    try:
        code = _argument(_decoded(text[start : _begin(tag, text)].strip()), tool)
    except _NotJSON as not_json:  # its quotes need not pair, so what seems a string may hold the end of the call
        tag, error = _TAG.search(text, start), str(not_json)
    except _Malformed as malformed:
        error = str(malformed)
    end = _begin(tag, text)
    if tag is None or not tag["slash"]:
        return ToolCall(code=text[start:end].strip(), error=NOT_CLOSED), end
    return ToolCall(code=text[start:end].strip() if error else code, error=error), tag.end()


def _begin(tag: re.Match[str] | None, text: str) -> int:
    """Where `tag` begins; the end of `text` where there is none."""
    return len(text) if tag is None else tag.start()


def _decoded(body: str) -> Any:
    try:
        return _DECODER.decode(body)
    except json.JSONDecodeError as error:
        reason = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
        raise _NotJSON(f"tool call is not valid JSON: {reason}") from None
    except RecursionError:
        raise _NotJSON("tool call is nested too deeply") from None


def _argument(value: Any, tool: ToolSignature) -> str:
    """The argument that a decoded call gives to `tool`."""
    call = _fields(value, "tool call", ("name", "arguments"))
    if (name := _string(call, "name")) != tool.name:
        raise _Malformed(f"unknown tool {_quoted(name)}, expected {tool.name!r}")
    argument = _string(_fields(call["arguments"], "'arguments'", (tool.argument,)), tool.argument)
    if _SURROGATE.search(argument):
        raise _Malformed(f"{tool.argument!r} holds half a character: a \\u escape of a pair stands alone")
    if not argument.strip():
        raise _Malformed(f"{tool.argument!r} is empty")
    return argument


def _fields(value: Any, what: str, names: tuple[str, ...]) -> dict[str, Any]:
    """`value` as an object of exactly the keys `names`."""
    if not isinstance(value, dict):
        raise _Malformed(f"{what} must be a JSON object")
    if missing := [name for name in names if name not in value]:
        raise _Malformed(f"{what} lacks {missing[0]!r}")
    if surplus := [key for key in value if key not in names]:
        raise _Malformed(f"{what} has the unknown key {_quoted(surplus[0])}")
    return value


def _string(fields: dict[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise _Malformed(f"{name!r} must be a string")
    return fields[name]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys must differ: which of two values was meant cannot be known."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise _Malformed(f"the key {_quoted(key)} stands twice")
        fields[key] = value
    return fields


def _quoted(name: str) -> str:
    """The beginning of `name` in quotes; what cannot be printed is escaped, for the transcript is encoded as UTF-8."""
    return repr(name[:MAX_QUOTED])


_DECODER = json.JSONDecoder(parse_int=float, object_pairs_hook=_object)  # int refuses very long numbers
