"""Small hand-made trajectories and groups for tests: the tokens mean nothing, the structure is real."""

from collections.abc import Sequence

from turnwise.types import (
    FinishReason,
    Group,
    Message,
    Problem,
    StopReason,
    ToolCall,
    ToolResult,
    ToolStatus,
    Trajectory,
    Turn,
)

PROMPT_IDS = (1, 2, 3)


def problem(answer: str = "42", id: str = "p0") -> Problem:
    return Problem(id=id, prompt=(Message(role="user", content="What?"),), answer=answer, source="test")


def turn(start: int, num_tokens: int = 2, *, code: str | None = None, error: str | None = None, text: str = "") -> Turn:
    """A turn at `start`; with `code` it holds one tool call, malformed when `error` says so."""
    calls = () if code is None else (ToolCall(code=code, error=error),)
    result = ToolResult(status=ToolStatus.ok, output="1", wall_s=0.01) if calls and error is None else None
    return Turn(
        span=(start, start + num_tokens),
        behaviour_logprobs=tuple(-0.5 - 0.1 * i for i in range(num_tokens)),
        text=text,
        tool_calls=calls,
        tool_result=result,
        finish_reason=FinishReason.stop,
        policy_version=0,
    )


def trajectory(
    codes: Sequence[str | None] = ("print(1)", None),
    *,
    answer: str | None = None,
    errors: Sequence[str | None] | None = None,
    problem_id: str = "p0",
    sample_index: int = 0,
    stop_reason: StopReason = StopReason.answered,
    turn_tokens: int = 2,
    tool_tokens: int = 1,
) -> Trajectory:
    """One turn for each entry of `codes` (None: no call), with `tool_tokens` tokens of tool output between turns."""
    turns, start = [], len(PROMPT_IDS)
    for code, error in zip(codes, errors or [None] * len(codes), strict=True):
        turns.append(turn(start, turn_tokens, code=code, error=error))
        start += turn_tokens + tool_tokens
    length = turns[-1].span[1] if turns else len(PROMPT_IDS)
    return Trajectory(
        problem_id=problem_id,
        sample_index=sample_index,
        token_ids=(PROMPT_IDS + tuple(10 + i for i in range(length)))[:length],
        turns=tuple(turns),
        stop_reason=stop_reason,
        answer=answer,
    )


def group(*trajectories: Trajectory, answer: str = "42", id: str = "p0") -> Group:
    return Group(problem=problem(answer, id), trajectories=trajectories)
