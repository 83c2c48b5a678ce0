"""Kept trajectories as the report shows them: credit by turn, and what its viewer holds."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from turnwise.report.curves import Curve, Series, turn_curve
from turnwise.tracker.bundle import Advantages, bundle_path, bundle_steps, iterate_groups
from turnwise.types import ScoredGroup, Trajectory

MAX_BYTES = 2_000_000
"""Of embedded trajectories in one page."""
MAX_TURN_TOKENS = 512
"""Of one turn whose tokens are embedded one by one."""


@dataclass(frozen=True, kw_only=True)
class Credit:
    """`curves` of reward and advantage by turn; `steps`, what the viewer holds; `note`, what was left out."""

    curves: Sequence[Curve]
    steps: Sequence[dict[str, Any]]
    note: str


def read_credit(run_dir: Path, max_bytes: int = MAX_BYTES) -> Credit:
    """Reads the first, the middle and the last step whose groups were kept, each up to a third of `max_bytes`."""
    kept = bundle_steps(run_dir)
    chosen = sorted({kept[0], kept[len(kept) // 2], kept[-1]}) if kept else []
    show_token = _token_texts(run_dir)
    steps, means_by_step = [], {}
    for step in chosen:
        means, groups, num_groups = _TurnMeans(), [], 0
        left = max_bytes // len(chosen)
        for scored, group_advantages in iterate_groups(bundle_path(run_dir, step)):
            num_groups += 1
            means.add(scored, group_advantages)
            if left > 0:
                shown, left = _shown_group(scored, group_advantages, show_token, left)
                groups.append(shown)
        if groups:
            steps.append({"step": step, "num_groups": num_groups, "groups": groups})
            means_by_step[f"step {step}"] = means
    return Credit(curves=_curves(means_by_step), steps=steps, note=_note(steps, len(kept)))


class _TurnMeans:
    """Values of many trajectories, gathered by name and turn."""

    def __init__(self) -> None:
        self._values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, scored: ScoredGroup, advantages: Advantages) -> None:
        rows = zip(scored.group.trajectories, scored.turn_rewards_GK, advantages, scored.correct_G, strict=True)
        for trajectory, rewards, row, is_correct in rows:
            if not trajectory.is_excluded:
                for turn, (reward, advantage) in enumerate(zip(rewards, row, strict=True), start=1):
                    self._values["reward"][turn].append(reward)
                    self._values["correct" if is_correct else "wrong"][turn].append(advantage)

    def of(self, name: str) -> Series:
        turns = sorted(self._values[name])
        return turns, [fmean(self._values[name][turn]) for turn in turns]


def _curves(means_by_step: Mapping[str, _TurnMeans]) -> list[Curve]:
    drawn = []
    for name, title, about in (
        ("reward", "Reward by turn", "Mean over the trajectories that have such a turn."),
        ("correct", "Advantage by turn, correct answers", "Mean over the trajectories that end right."),
        ("wrong", "Advantage by turn, wrong answers", "Mean over the trajectories that end wrong."),
    ):
        series = {step: means.of(name) for step, means in means_by_step.items() if means.of(name)[0]}
        if series:
            drawn.append(turn_curve(title, about, series))
    return drawn


def _note(steps: Sequence[dict[str, Any]], num_kept: int) -> str:
    if not steps:
        return "No trajectories were kept."
    parts = [
        f"step {step['step']} ({len(step['groups'])} of {step['num_groups']} problems, "
        f"{sum(len(group['trajectories']) for group in step['groups'])} trajectories)"
        for step in steps
    ]
    return f"In this page: {', '.join(parts)}. All {num_kept} kept steps lie whole in groups/."


def _shown_group(
    scored: ScoredGroup, advantages: Advantages, show_token: Callable[[int], str], left: int
) -> tuple[dict[str, Any], int]:
    """A group with as many trajectories as `left` bytes allow, one at least, and what is left then."""
    problem = scored.group.problem
    trajectories: list[dict[str, Any]] = []
    for place, trajectory in enumerate(scored.group.trajectories):
        if left > 0:
            shown = _shown_trajectory(scored, place, trajectory, advantages[place], show_token)
            left -= len(json.dumps(shown))
            trajectories.append(shown)
    return {
        "id": problem.id,
        "source": problem.source,
        "gold": problem.answer,
        "prompt": [[message.role, message.content] for message in problem.prompt],
        "size": len(scored.group.trajectories),
        "trajectories": trajectories,
    }, left


def _shown_trajectory(
    scored: ScoredGroup,
    place: int,
    trajectory: Trajectory,
    advantages: Sequence[float],
    show_token: Callable[[int], str],
) -> dict[str, Any]:
    return {
        "sample": trajectory.sample_index,
        "correct": scored.correct_G[place],
        "excluded": trajectory.is_excluded,
        "stop": trajectory.stop_reason,
        "answer": trajectory.answer,
        "num_tokens": len(trajectory.token_ids),
        "turns": [
            {
                "text": turn.text,
                "errors": [call.error for call in turn.tool_calls if call.error is not None],
                "result": turn.tool_result
                and [turn.tool_result.status, turn.tool_result.output, round(turn.tool_result.wall_s, 3)],
                "span": turn.span,
                "finish": turn.finish_reason,
                "version": turn.policy_version,
                "reward": scored.turn_rewards_GK[place][number],
                "terms": {name: rows[place][number] for name, rows in scored.terms.items() if rows[place][number]},
                "advantage": advantages[number],
                "tokens": [
                    [token, show_token(token), round(logprob, 3)]
                    for token, logprob in zip(
                        trajectory.token_ids[slice(*turn.span)][:MAX_TURN_TOKENS], turn.behaviour_logprobs, strict=False
                    )
                ],
            }
            for number, turn in enumerate(trajectory.turns)
        ],
    }


def _token_texts(run_dir: Path) -> Callable[[int], str]:
    """Id to text by the tokenizer of the last checkpoint; empty texts where there is none."""
    path = run_dir / "checkpoints" / "last" / "tokenizer.json"
    if not path.exists():
        return lambda token: ""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return cache(lambda token: tokenizer.decode([token], skip_special_tokens=False))
