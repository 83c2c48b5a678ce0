"""Trajectory bundles: one file a step, one JSON line a group, enough to score the step again without a model."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from turnwise.protocols import PGK
from turnwise.tracker.atomic import write_atomically
from turnwise.types import (
    FinishReason,
    Group,
    Message,
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
    if not len(groups) == len(returns) == len(advantages):
        counts = f"returns of {len(returns)} and advantages of {len(advantages)}"
        raise ValueError(f"{path.name}: {len(groups)} groups but {counts}")
    lines = [
        json.dumps(_group_to_json(*one), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
        for one in zip(groups, returns, advantages, strict=True)
    ]
    write_atomically(path, gzip.compress("".join(lines).encode("utf-8", "surrogatepass"), mtime=0))


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
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError, KeyError, TypeError) as error:
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
        },
        "trajectories": [
            {
                "sample_index": trajectory.sample_index,
                "token_ids": trajectory.token_ids,
                "turns": [_turn_to_json(turn) for turn in trajectory.turns],
                "stop_reason": trajectory.stop_reason,
                "answer": trajectory.answer,
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
        id=line["problem"]["id"],
        prompt=tuple(Message(**message) for message in line["problem"]["prompt"]),
        answer=line["problem"]["answer"],
        source=line["problem"]["source"],
    )
    trajectories = tuple(
        Trajectory(
            problem_id=problem.id,
            sample_index=one["sample_index"],
            token_ids=tuple(one["token_ids"]),
            turns=tuple(_turn_from_json(turn, wall_s) for turn, wall_s in zip(one["turns"], walls_s, strict=True)),
            stop_reason=StopReason(one["stop_reason"]),
            answer=one["answer"],
            gold_logprobs=None if one["gold_logprobs"] is None else tuple(one["gold_logprobs"]),
        )
        for one, walls_s in zip(line["trajectories"], line["tool_wall_s"], strict=True)
    )
    scored = ScoredGroup(
        group=Group(problem=problem, trajectories=trajectories),
        turn_rewards_GK=_rows(line["turn_rewards"]),
        terms={name: _rows(rows) for name, rows in line["terms"].items()},
        correct_G=tuple(line["correct"]),
        outcome_terms=tuple(line["outcome_terms"]),
        shaping_peers_G=tuple(tuple((place, alike) for place, alike in row) for row in line.get("shaping_peers", ())),
    )
    return scored, line["returns"], line["advantages"]


def _turn_from_json(turn: Mapping[str, Any], wall_s: float | None) -> Turn:
    result = turn["tool_result"]
    if result is not None:
        if wall_s is None:
            raise ValueError("tool_wall_s holds no time for a tool result")
        result = ToolResult(status=ToolStatus(result["status"]), output=result["output"], wall_s=wall_s)
    start, end = turn["span"]
    return Turn(
        span=(start, end),
        behaviour_logprobs=tuple(turn["logprobs"]),
        trainer_logprobs=None if turn.get("trainer_logprobs") is None else tuple(turn["trainer_logprobs"]),
        text=turn["text"],
        tool_calls=tuple(ToolCall(**call) for call in turn["tool_calls"]),
        tool_result=result,
        finish_reason=FinishReason(turn["finish_reason"]),
        policy_version=turn["policy_version"],
    )


def _rows(rows: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in rows)
