"""Rejection sampling: which of the model's own trajectories it is to imitate, and as which messages they read."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

from turnwise.protocols import Renderer
from turnwise.reward.format import format_errors_K
from turnwise.types import Message, ScoredGroup, StopReason, Trajectory
from turnwise.warmstart.imitation import Example


class Verdict(StrEnum):
    """What becomes of a sampled trajectory: it is kept, or the first reason why not."""

    kept = "kept"
    excluded = "excluded"
    """The infrastructure failed, or the prompt left no room for a turn."""
    unfinished = "unfinished"
    """It gave no answer."""
    wrong = "wrong"
    format_error = "format_error"
    """It is right, but a call is malformed, or the first turn calls no tool."""
    repeated = "repeated"
    """Token by token a sibling that is kept."""
    surplus = "surplus"
    """As many siblings as are wanted are kept."""


def judge(scored: ScoredGroup, keep: int) -> list[Verdict]:
    """A verdict on each trajectory of a group, in order; the first `keep` of those that are worth it are kept."""
    verdicts: list[Verdict] = []
    kept: set[tuple[int, ...]] = set()
    for trajectory, is_correct in zip(scored.group.trajectories, scored.correct_G, strict=True):
        verdict = _flaw(trajectory, is_correct)
        if verdict is None and trajectory.token_ids in kept:
            verdict = Verdict.repeated
        if verdict is None and len(kept) == keep:
            verdict = Verdict.surplus
        if verdict is None:
            kept.add(trajectory.token_ids)
        verdicts.append(verdict or Verdict.kept)
    return verdicts


def _flaw(trajectory: Trajectory, is_correct: bool) -> Verdict | None:
    if trajectory.is_excluded:
        return Verdict.excluded
    if trajectory.stop_reason is not StopReason.answered:
        return Verdict.unfinished
    if not is_correct:
        return Verdict.wrong
    return Verdict.format_error if any(format_errors_K(trajectory)) else None


def kept_examples(groups: Iterable[ScoredGroup], keep: int) -> list[Example]:
    """The trajectories that are to be imitated, with their problems."""
    return [
        (scored.group.problem, trajectory)
        for scored in groups
        for trajectory, verdict in zip(scored.group.trajectories, judge(scored, keep), strict=True)
        if verdict is Verdict.kept
    ]


class Tally:
    """How many trajectories met which verdict, over how many problems."""

    def __init__(self) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self.num_problems = 0
        self.num_solved = 0

    def add(self, groups: Sequence[ScoredGroup], keep: int) -> None:
        """Counts more groups."""
        for scored in groups:
            verdicts = judge(scored, keep)
            self.verdicts.update(verdicts)
            self.num_problems += 1
            self.num_solved += Verdict.kept in verdicts

    @property
    def figures(self) -> dict[str, float]:
        """`warmstart/num_kept` trajectories of `warmstart/num_solved` problems so far, and `warmstart/<verdict>`
        as shares of all."""
        num_trajectories = self.verdicts.total()
        shares = {f"warmstart/{verdict}": self.verdicts[verdict] / num_trajectories for verdict in Verdict}
        return {"warmstart/num_kept": self.verdicts[Verdict.kept], "warmstart/num_solved": self.num_solved, **shares}

    def __str__(self) -> str:
        """In one line: what was kept, and why the rest was not."""
        rest = [f"{self.verdicts[v]} {v.replace('_', ' ')}" for v in Verdict if v is not Verdict.kept]
        kept = f"{self.verdicts[Verdict.kept]} of {self.verdicts.total()} trajectories"
        return f"kept {kept}, of {self.num_solved} of {self.num_problems} problems; others: {', '.join(rest)}"


def transcript_line(name: str, opening: Sequence[Message], trajectory: Trajectory, renderer: Renderer) -> str:
    """A finished trajectory as a line of a file of transcripts.

    Args:
        name: The transcript's id.
        opening: What was said before the first turn.
        trajectory: Between two turns of it stands the output of a tool.
        renderer: The policy's chat template.

    Raises:
        ValueError: The messages do not give the tokens that stand between the turns.
    """
    messages = list(opening)
    prompt = renderer.prompt_ids(opening)
    end = 0
    for turn in trajectory.turns:
        start = turn.span[0]
        if trajectory.token_ids[end:start] != prompt:
            raise ValueError(f"trajectory {name}: tokens {end} to {start} are not those of the message before the turn")
        messages.append(Message(role="assistant", content=turn.text))
        end = turn.span[1]
        if turn.tool_result is not None:
            messages.append(Message(role="tool", content=turn.tool_result.output))
            prompt = renderer.continuation_ids(messages[-1:])
    rows = [{"role": message.role, "content": message.content} for message in messages]
    return json.dumps({"id": name, "messages": rows}, ensure_ascii=False) + "\n"
