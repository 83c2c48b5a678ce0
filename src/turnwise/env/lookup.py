"""`env=lookup`: the policy asks a key-value store for values, key by key, and ends with a boxed answer.

The whole of what another tool than Python takes: a signature, how its calls are read, and what they are answered by.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from turnwise.env.conversation import ToolConversation
from turnwise.env.tool_call import ParsedTurn, ToolSignature
from turnwise.env.tool_format import ToolFormat, parse_turn
from turnwise.key_values import KeyValueStore
from turnwise.types import Isolation, Problem, ToolCall, ToolResult, ToolStatus
from turnwise.worked_examples import ExampleMessage

SIGNATURE = ToolSignature("lookup", "key")
MAX_QUOTED = 20
"""Characters of a key that an error repeats."""


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A key-value store for each problem, seeded by its statement. A turn may ask for several keys."""

    tool_language: ClassVar[str] = SIGNATURE.name
    """What a call names."""

    tool_format: ToolFormat = ToolFormat.code_block
    """How calls are written: fenced code blocks, or JSON between tags as Hermes and Qwen models do."""

    system_prompt: str = ""
    """Placed before the problem's prompt as a system message; empty: no system message."""

    examples: list[ExampleMessage] = field(default_factory=list)
    """Worked examples between the system message and the problem."""

    problem_suffix: str = ""
    """Appended to the problem."""

    def start(self) -> "LookupPool":
        """Nothing is started: values are computed in this process."""
        return LookupPool(self)


class LookupPool:
    """Makes episodes; fulfils `EnvironmentPool`."""

    isolation: Isolation | None = None
    """It runs no programs."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    def episode(self, problem: Problem) -> ToolConversation:
        """A fresh episode of `problem` with the store that its statement names."""
        store = KeyValueStore(name=problem.prompt[-1].content)
        return ToolConversation(LookupTool(store, self._lookup.tool_format), self._lookup, problem)

    async def close(self) -> None:
        """Nothing to end."""


class LookupTool:
    """The store of one episode; fulfils `Tool`."""

    def __init__(self, store: KeyValueStore, tool_format: ToolFormat) -> None:
        self._store = store
        self._tool_format = tool_format

    def parse(self, turn_text: str) -> ParsedTurn:
        """The keys that a turn asks for, and what stands outside of the calls."""
        return parse_turn(turn_text, self._tool_format, SIGNATURE)

    async def run(self, calls: tuple[ToolCall, ...]) -> ToolResult:
        """The values of the keys, one a line; or the first key that is missing, which is the caller's error."""
        keys = [call.code.strip() for call in calls]
        if missing := [key for key in keys if key not in self._store]:
            return _result(ToolStatus.user_error, f"KeyError: {missing[0][:MAX_QUOTED]!r}")
        return _result(ToolStatus.ok, "\n".join(self._store[key] for key in keys))

    async def close(self) -> None:
        """Nothing to end."""


def _result(status: ToolStatus, output: str) -> ToolResult:
    return ToolResult(status=status, output=output, wall_s=0.0)  # no time that could be told from none
