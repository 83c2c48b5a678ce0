"""Transcripts of tool use from a file of JSON lines, as the trajectories that sampling would have recorded."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from turnwise.rollout.episode import RolloutLimits
from turnwise.task.rows import json_lines
from turnwise.types import Message, Problem, StepResult, StopReason
from turnwise.warmstart.demonstrations import Demonstration, TurnEncoder, as_trajectory
from turnwise.warmstart.imitation import Example
from turnwise.warmstart.settings import TooLong

ROLES = ("system", "user", "assistant", "tool")
FIELDS = ("role", "content")
"""Of a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """What was said by whom; `place` is the file and the line that it stands in."""

    id: str
    messages: tuple[Message, ...]
    place: str


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Transcripts as tokens: those that can be learnt, and how many were longer than the limit."""

    examples: list[Example]
    num_cut: int
    num_dropped: int


def read_transcripts(path: Path) -> list[Transcript]:
    """Every transcript of a file, in order; blank lines are skipped.

    A line is an object with `messages`, each of a `role` and a `content` and nothing else, and optionally an `id`;
    further fields of the object are passed over. The turns that are learnt are the messages of the role `assistant`:
    at least one, none at the beginning, and never two in a row. Only what a tool said may be blank.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file holds no transcript, or a line is malformed; file, line and field are named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"warmstart.path={path}: no such file")
    transcripts: list[Transcript] = []
    lines_of: dict[str, int] = {}
    for number, row in json_lines(path):
        place = f"{path}:{number}"
        transcript = Transcript(
            id=_id(row, place) or f"{path.stem}/{number}", messages=_messages(row, place), place=place
        )
        if transcript.id in lines_of:
            raise ValueError(f"{place}: id {transcript.id!r} is already that of line {lines_of[transcript.id]}")
        lines_of[transcript.id] = number
        transcripts.append(transcript)
    if not transcripts:
        raise ValueError(f"{path}: holds no transcript")
    return transcripts


def as_demonstration(transcript: Transcript) -> Demonstration:
    """The transcript as turns and replies to them; what follows the last turn answers nothing and is left out."""
    opening: list[Message] = []
    turns: list[str] = []
    replies: list[list[Message]] = []
    for message in transcript.messages:
        if message.role == "assistant":
            turns.append(message.content)
            replies.append([])
        else:
            (replies[-1] if replies else opening).append(message)
    last = StepResult(stop_reason=StopReason.answered)
    return Demonstration(
        # Nothing grades it: what was said last stands for the answer.
        problem=Problem(id=transcript.id, prompt=tuple(opening), answer=turns[-1], source="transcripts"),
        opening=tuple(opening),
        turns=tuple(turns),
        replies=(*(StepResult(messages=tuple(messages)) for messages in replies[:-1]), last),
    )


async def encode(
    transcripts: Sequence[Transcript], renderer: TurnEncoder, *, max_tokens: int, too_long: TooLong
) -> Encoded:
    """The transcripts as token ids and turn spans, built as an episode builds them.

    Args:
        transcripts: What was said.
        renderer: The policy's chat template. Nothing is said before the opening of a transcript.
        max_tokens: Of the longest that is taken whole.
        too_long: What becomes of longer ones.

    Raises:
        ValueError: The template refuses a transcript; one is longer than `max_tokens` and `too_long` is `error`;
            or nothing is left.
    """
    examples: list[Example] = []
    longer: list[tuple[str, int]] = []
    num_dropped = 0
    for transcript in transcripts:
        one = as_demonstration(transcript)
        try:
            trajectory = await as_trajectory(one, renderer, _limits(one, sys.maxsize))
        except ValueError as error:
            raise ValueError(f"{transcript.place}: {error}") from error
        if (length := len(trajectory.token_ids)) > max_tokens:
            longer.append((transcript.place, length))
            trajectory = await as_trajectory(one, renderer, _limits(one, max_tokens))
            if too_long is TooLong.drop or not trajectory.turns:
                num_dropped += 1
                continue
        examples.append((one.problem, trajectory))
    if longer and too_long is TooLong.error:
        place, length = longer[0]
        raise ValueError(
            f"{place}: {length} tokens, the limit (warmstart.max_tokens, by default rollout.max_tokens) is "
            f"{max_tokens}; of {len(transcripts)} transcripts {len(longer)} are longer, the longest has "
            f"{max(length for _, length in longer)}: raise it, or choose warmstart.too_long=cut or drop"
        )
    if not examples:
        raise ValueError(f"warmstart.max_tokens={max_tokens}: all {len(transcripts)} transcripts are longer")
    return Encoded(examples=examples, num_cut=len(longer) - num_dropped, num_dropped=num_dropped)


def _limits(demonstration: Demonstration, max_tokens: int) -> RolloutLimits:
    return RolloutLimits(max_turns=len(demonstration.turns), max_tokens=max_tokens)


def _id(row: dict[str, Any], place: str) -> str | None:
    value = row.get("id")
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ValueError(f"{place}: id: expected a text that is not blank, got {_shown(value)}")
    return value


def _messages(row: dict[str, Any], place: str) -> tuple[Message, ...]:
    if "messages" not in row:
        raise ValueError(f"{place}: messages: missing; the object has {', '.join(map(str, row)) or 'no field'}")
    rows = row["messages"]
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{place}: messages: expected a list of messages, got {_shown(rows)}")
    messages = tuple(_message(one, f"{place}: messages[{index}]") for index, one in enumerate(rows))
    is_turn = [message.role == "assistant" for message in messages]
    if not any(is_turn):
        raise ValueError(f"{place}: messages: none is of the role assistant, so there is nothing to learn")
    if is_turn[0]:
        raise ValueError(f"{place}: messages[0].role: assistant, but a transcript begins with what a turn answers")
    for index, pair in enumerate(pairwise(is_turn)):
        if all(pair):
            raise ValueError(f"{place}: messages[{index + 1}].role: a second assistant in a row; join the two messages")
    return messages


def _message(row: Any, field: str) -> Message:
    if not isinstance(row, dict):
        raise ValueError(f"{field}: expected an object with role and content, got {_shown(row)}")
    for key in FIELDS:
        if key not in row:
            raise ValueError(f"{field}.{key}: missing; the message has {', '.join(map(str, row)) or 'no field'}")
    if unknown := [key for key in row if key not in FIELDS]:
        raise ValueError(
            f"{field}.{unknown[0]}: no such field; a message has role and content, and a tool call is a part of the "
            f"content, written as the environment reads it"
        )
    role, content = row["role"], row["content"]
    if role not in ROLES:
        raise ValueError(f"{field}.role: expected one of {', '.join(ROLES)}, got {_shown(role)}")
    if not isinstance(content, str) or not (content.strip() or role == "tool"):
        raise ValueError(f"{field}.content: expected a text that is not blank, got {_shown(content)}")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{field}.content: half of a surrogate pair at character {error.start}") from error
    return Message(role=role, content=content)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
