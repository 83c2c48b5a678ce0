"""Trajectory bundles: one file a step, one JSON line a group, enough to score the step again without a model."""

import gzip
import json
import math
import reprlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from turnwise.protocols import PGK
from turnwise.tracker.atomic import write_atomically
from turnwise.types import (
    FinishReason,
    Group,
    Message,
    Peers,
    Problem,
    ScoredGroup,
    StopReason,
    ToolCall,
    ToolResult,
    ToolStatus,
    Trajectory,
    Turn,
)

Returns = list[list[float]]
"""Of one group, `[G][K]`."""
Advantages = list[list[float]]
"""Of one group, `[G][K]`."""

_Kind = TypeVar("_Kind")
_LEVEL = 4
"""Of the compression: the smallest files take several times as long and are a few percent smaller."""
_BREAKS = (EOFError, gzip.BadGzipFile, zlib.error, ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What reading a broken bundle raises."""


def bundle_path(run_dir: Path, step: int) -> Path:
    """Where the groups of `step` lie in a run's folder."""
    return run_dir / "groups" / f"step_{step}.jsonl.gz"


def bundle_steps(run_dir: Path) -> list[int]:
    """Steps whose groups lie in a run's folder, in order."""
    names = (path.name for path in (run_dir / "groups").glob("step_*.jsonl.gz"))
    return sorted(int(name.removeprefix("step_").removesuffix(".jsonl.gz")) for name in names)


def write_groups(path: Path, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK) -> None:
    """Writes the groups of one step with their returns and advantages.

    Equal groups give equal bytes, but for `tool_wall_s` at the end of each line: how long the tools took.
    """
    write_atomically(path, _compressed(path, groups, returns, advantages))


def append_groups(path: Path, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK) -> None:
    """Adds groups to a bundle, which may be missing: afterwards it is either as it was or has all of them."""
    before = path.read_bytes() if path.exists() else b""
    write_atomically(path, before + _compressed(path, groups, returns, advantages))


def _compressed(path: Path, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK) -> bytes:
    """A gzip member of one line a group; a file of several members is read as if it were one."""
    if not len(groups) == len(returns) == len(advantages):
        counts = f"returns of {len(returns)} and advantages of {len(advantages)}"
        raise ValueError(f"{path.name}: {len(groups)} groups but {counts}")
    lines = [
        json.dumps(_group_to_json(*one), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
        for one in zip(groups, returns, advantages, strict=True)
    ]
    return gzip.compress("".join(lines).encode("utf-8", "surrogatepass"), _LEVEL, mtime=0)


def iterate_groups(path: Path) -> Iterator[tuple[ScoredGroup, Advantages]]:
    """The groups of a bundle one by one, as they were written; for bundles too large to hold.

    Raises:
        ValueError: The file is not a whole bundle; the message names the file and the line.
    """
    return ((scored, advantages) for scored, _, advantages in iterate_credit(path))


def iterate_credit(path: Path) -> Iterator[tuple[ScoredGroup, Returns, Advantages]]:
    """As `iterate_groups`, with the returns of the turns.

    Raises:
        ValueError: The file is not a whole bundle; the message names the file and the line.
    """
    place = str(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogatepass", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                place = f"{path}, line {number}"
                yield _group_from_json(json.loads(line))
    except _BREAKS as error:
        raise ValueError(f"{place}: not a whole trajectory bundle: {error!r}") from error


def read_groups(path: Path) -> list[tuple[ScoredGroup, Advantages]]:
    """What `write_groups` was given, group by group; every float is the same float.

    Raises:
        ValueError: The file is not a whole bundle; the message names the file and the line.
    """
    return list(iterate_groups(path))


def _group_to_json(
    scored: ScoredGroup, returns: Sequence[Sequence[float]], advantages: Sequence[Sequence[float]]
) -> dict[str, Any]:
    problem, trajectories = scored.group.problem, scored.group.trajectories
    return {
        "problem": {
            "id": problem.id,
            "prompt": [{"role": message.role, "content": message.content} for message in problem.prompt],
            "answer": problem.answer,
            "source": problem.source,
            "tests": problem.tests,
            "entry_point": problem.entry_point,
        },
        "trajectories": [
            {
                "sample_index": trajectory.sample_index,
                "token_ids": trajectory.token_ids,
                "turns": [_turn_to_json(turn) for turn in trajectory.turns],
                "stop_reason": trajectory.stop_reason,
                "answer": trajectory.answer,
                "passed": trajectory.passed,
                "gold_logprobs": trajectory.gold_logprobs,
            }
            for trajectory in trajectories
        ],
        "turn_rewards": scored.turn_rewards_GK,
        "terms": dict(scored.terms),
        "outcome_terms": scored.outcome_terms,
        "shaping_peers": scored.shaping_peers_G,
        "correct": scored.correct_G,
        "returns": returns,
        "advantages": advantages,
        "tool_wall_s": [[t.tool_result.wall_s if t.tool_result else None for t in one.turns] for one in trajectories],
    }


def _turn_to_json(turn: Turn) -> dict[str, Any]:
    result = turn.tool_result
    return {
        "span": turn.span,
        "logprobs": turn.behaviour_logprobs,
        "trainer_logprobs": turn.trainer_logprobs,
        "text": turn.text,
        "tool_calls": [{"code": call.code, "error": call.error} for call in turn.tool_calls],
        "tool_result": None if result is None else {"status": result.status, "output": result.output},
        "finish_reason": turn.finish_reason,
        "policy_version": turn.policy_version,
    }


def _group_from_json(line: Mapping[str, Any]) -> tuple[ScoredGroup, Returns, Advantages]:
    problem = Problem(
        id=_text(line["problem"], "id"),
        prompt=tuple(
            Message(role=_text(one, "role"), content=_text(one, "content")) for one in line["problem"]["prompt"]
        ),
        answer=_text(line["problem"], "answer"),
        source=_text(line["problem"], "source"),
        tests=_of(str, line["problem"].get("tests", ""), "tests"),
        entry_point=_of(str, line["problem"].get("entry_point", ""), "entry_point"),
    )
    trajectories = tuple(
        Trajectory(
            problem_id=problem.id,
            sample_index=_of(int, one["sample_index"], "sample_index"),
            token_ids=_integers(one, "token_ids"),
            turns=tuple(_turn_from_json(turn, wall_s) for turn, wall_s in zip(one["turns"], walls_s, strict=True)),
            stop_reason=StopReason(one["stop_reason"]),
            answer=None if one["answer"] is None else _text(one, "answer"),
            passed=None if one.get("passed") is None else _of(bool, one["passed"], "passed"),
            gold_logprobs=None if one["gold_logprobs"] is None else _numbers(one["gold_logprobs"], "gold_logprobs"),
        )
        for one, walls_s in zip(line["trajectories"], line["tool_wall_s"], strict=True)
    )
    shape = [len(one.turns) for one in trajectories]
    scored = ScoredGroup(
        group=Group(problem=problem, trajectories=trajectories),
        turn_rewards_GK=_rows(line["turn_rewards"], "turn_rewards", shape),
        terms={name: _rows(rows, f"terms.{name}", shape) for name, rows in line["terms"].items()},
        correct_G=tuple(_of(bool, one, "correct") for one in line["correct"]),
        outcome_terms=tuple(line["outcome_terms"]),
        shaping_peers_G=_peers(line.get("shaping_peers", ()), len(shape)),
    )
    returns, advantages = (list(map(list, _rows(line[name], name, shape))) for name in ("returns", "advantages"))
    return scored, returns, advantages


def _turn_from_json(turn: Mapping[str, Any], wall_s: float | None) -> Turn:
    result, trainer = turn["tool_result"], turn.get("trainer_logprobs")
    if result is not None:
        status, output = ToolStatus(result["status"]), _text(result, "output")
        result = ToolResult(status=status, output=output, wall_s=_number(wall_s, "tool_wall_s"))
    start, end = _integers(turn, "span")
    return Turn(
        span=(start, end),
        behaviour_logprobs=_numbers(turn["logprobs"], "logprobs"),
        trainer_logprobs=None if trainer is None else _numbers(trainer, "trainer_logprobs"),
        text=_text(turn, "text"),
        tool_calls=tuple(
            ToolCall(code=_text(call, "code"), error=None if call["error"] is None else _text(call, "error"))
            for call in turn["tool_calls"]
        ),
        tool_result=result,
        finish_reason=FinishReason(turn["finish_reason"]),
        policy_version=_of(int, turn["policy_version"], "policy_version"),
    )


def _of(kind: type[_Kind], value: Any, name: str) -> _Kind:
    if type(value) is not kind:  # a bool is an int, but no count
        raise ValueError(f"{name}: expected {kind.__name__}, got {reprlib.repr(value)}")
    return value


def _text(holder: Mapping[str, Any], name: str) -> str:
    return _of(str, holder[name], name)


def _integers(holder: Mapping[str, Any], name: str) -> tuple[int, ...]:
    if set(map(type, holder[name])) - {int}:
        raise ValueError(f"{name}: expected integers, got {reprlib.repr(holder[name])}")
    return tuple(holder[name])


def _numbers(values: Sequence[Any], name: str) -> tuple[float, ...]:
    if set(map(type, values)) - {int, float} or not all(map(math.isfinite, values)):
        raise ValueError(f"{name}: expected finite numbers, got {reprlib.repr(values)}")
    return tuple(values)


def _number(value: Any, name: str) -> float:
    return _numbers([value], name)[0]


def _rows(rows: Sequence[Sequence[Any]], name: str, shape: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """One row a trajectory, one number a turn."""
    if [len(row) for row in rows] != list(shape):
        raise ValueError(f"{name}: expected rows of {list(shape)} turns, got {reprlib.repr(rows)}")
    return tuple(_numbers(row, name) for row in rows)


def _peers(rows: Sequence[Sequence[Any]], num: int) -> tuple[Peers, ...]:
    """One row a trajectory of pairs, a place in the group and a similarity; or no row at all."""
    if len(rows) not in (0, num) or any(not 0 <= place < num for row in rows for place, _ in row):
        raise ValueError(f"shaping_peers: expected {num} rows of places below {num}, got {reprlib.repr(rows)}")
    return tuple(
        tuple((_of(int, place, "shaping_peers"), _number(alike, "shaping_peers")) for place, alike in row)
        for row in rows
    )
