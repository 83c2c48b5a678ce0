"""Scripted stand-ins for the engine, the renderer and the environment, for tests of what joins them."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from turnwise.types import (
    Completion,
    FinishReason,
    Message,
    Problem,
    Sampling,
    StepResult,
    StopReason,
    ToolCall,
    ToolResult,
    ToolStatus,
)

END = 0
"""The stop token of `CharRenderer`."""


class CharRenderer:
    """One token a character: `U` and `T` open user and tool messages, `A` opens the policy's turn, 0 ends a turn."""

    stop_token_ids = frozenset({END})

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return (*(ord(c) for m in messages for c in "U" + m.content), ord("A"))

    def continuation_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return (*(ord(c) for m in messages for c in "T" + m.content), ord("A"))

    def text(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in token_ids if i != END)


class ScriptedEngine:
    """Looks the turn up by its sampling seed: `derive_seed(seed, problem id, sample index, turn index)`.

    A text longer than `max_new_tokens` is cut, as an engine would; None is an abort.
    """

    busy_s = 0.0

    def __init__(self, turns: Mapping[int, str | None]) -> None:
        self._turns = turns
        self.version = 0
        self.calls: list[tuple[tuple[int, ...], Sampling]] = []
        self.sessions: list[ScriptedSession] = []

    def session(self) -> "ScriptedSession":
        self.sessions.append(ScriptedSession(self))
        return self.sessions[-1]

    def turn(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        self.calls.append((tuple(token_ids), sampling))
        text = self._turns[sampling.seed]
        if text is None:
            return self._completion((), FinishReason.abort)
        ids = (*(ord(c) for c in text), END)
        if len(ids) > sampling.max_new_tokens:
            return self._completion(ids[: sampling.max_new_tokens], FinishReason.length)
        return self._completion(ids, FinishReason.stop)

    def _completion(self, ids: tuple[int, ...], finish_reason: FinishReason) -> Completion:
        logprobs = tuple(-0.01 * (n + 1) for n in range(len(ids)))
        return Completion(token_ids=ids, logprobs=logprobs, finish_reason=finish_reason, policy_version=self.version)

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.version = version

    async def rest(self) -> None:
        pass

    async def close(self) -> None:
        pass


class ScriptedSession:
    """A trajectory with a `ScriptedEngine`."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine
        self.is_closed = False

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        assert not self.is_closed, "a closed session was asked for a turn"
        return self._engine.turn(token_ids, sampling)

    def close(self) -> None:
        self.is_closed = True


class EchoEnvironment:
    """`=x` answers x, `!x` calls a tool that replies x, `#` breaks the tool, anything else is a void turn."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.is_closed = False

    def initial_messages(self) -> tuple[Message, ...]:
        return self._problem.prompt

    async def step(self, turn_text: str) -> StepResult:
        kind, rest = turn_text[:1], turn_text[1:]
        if kind == "=":
            return StepResult(stop_reason=StopReason.answered, answer=rest)
        if kind not in ("!", "#"):
            return StepResult(stop_reason=StopReason.void_turn)
        call = (ToolCall(code=rest),)
        if kind == "#":
            broken = ToolResult(status=ToolStatus.infrastructure, output="", wall_s=0.0)
            return StepResult(stop_reason=StopReason.tool_infrastructure, tool_calls=call, tool_result=broken)
        result = ToolResult(status=ToolStatus.ok, output=rest, wall_s=0.0)
        return StepResult(messages=(Message(role="tool", content=rest),), tool_calls=call, tool_result=result)

    async def close(self) -> None:
        self.is_closed = True


class EchoPool:
    """Makes `EchoEnvironment`s and remembers them."""

    isolation = None

    def __init__(self) -> None:
        self.episodes: list[EchoEnvironment] = []

    def episode(self, problem: Problem) -> EchoEnvironment:
        self.episodes.append(EchoEnvironment(problem))
        return self.episodes[-1]

    async def close(self) -> None:
        pass
