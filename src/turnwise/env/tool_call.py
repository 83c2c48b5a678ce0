r"""What a turn says, in whatever format it calls: calls of one tool, and prose in which `\boxed{...}` is the answer."""

import re
from dataclasses import dataclass

from turnwise.types import ToolCall

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolSignature:
    """How a tool is called: its name, and the name of its one argument, which is text."""

    name: str
    argument: str


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A turn's text taken apart: its calls in order, a malformed one with its `error`, and the text outside of them."""

    calls: tuple[ToolCall, ...]
    prose: str


def extract_boxed(prose: str) -> str | None:
    r"""The content of the last `\boxed{...}`; None without one that is closed and not blank.

    Braces nest, escaped braces do not count; of nested boxes the innermost wins.

    Args:
        prose: What a turn says outside of its calls.
    """
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
