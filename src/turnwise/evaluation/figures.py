"""From the graded trajectories of one evaluation set to its figures."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from turnwise.core.passk import pass_at_k
from turnwise.evaluation.majority import majority_at_k, vote
from turnwise.evaluation.shares import ratio, share, standard_error
from turnwise.tracker.evaluations import Share
from turnwise.types import ScoredGroup, StopReason, ToolStatus, Trajectory

CUT = (StopReason.max_turns, StopReason.max_tokens, StopReason.prompt_too_long)
"""Ends of a trajectory that ran into a limit."""


@dataclass(frozen=True, slots=True)
class Question:
    """One problem with those of its trajectories that count: infrastructure failures are neither right nor wrong."""

    problem_id: str
    source: str
    trajectories: tuple[Trajectory, ...]
    is_correct: tuple[bool, ...]
    is_tested: bool = False
    """Whether its answers are programs, which agree on nothing but their tests."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return fmean(self.is_correct)

    def with_turns(self, turns: int) -> list[bool]:
        """Which of the trajectories of so many turns are right."""
        pairs = zip(self.trajectories, self.is_correct, strict=True)
        return [is_correct for one, is_correct in pairs if len(one.turns) == turns]

    @property
    def votes(self) -> list[Hashable | None]:
        """What each trajectory votes for."""
        pairs = zip(self.trajectories, self.is_correct, strict=True)
        return [vote(one.answer, is_correct) for one, is_correct in pairs]


def questions(scored_groups: Sequence[ScoredGroup]) -> list[Question]:
    """The problems that have a trajectory that counts, in order."""
    found = []
    for scored in scored_groups:
        pairs = zip(scored.group.trajectories, scored.correct_G, strict=True)
        counted = [(one, is_correct) for one, is_correct in pairs if not one.has_infrastructure_failure]
        if counted:
            trajectories, is_correct = zip(*counted, strict=True)
            problem = scored.group.problem
            found.append(Question(problem.id, problem.source, trajectories, is_correct, bool(problem.tests)))
    return found


def shares_of(asked: Sequence[Question], ks: Sequence[int]) -> dict[str, Share]:
    """Accuracy, then pass@k and majority@k of each k, over the questions that have k samples.

    Questions have fewer samples than were asked for only where infrastructure failed; `num_problems` of a share says
    how many are left. A k for which none is left has no share. Programs have no majority.
    """
    shares = {"accuracy": share([one.accuracy for one in asked])}
    for k in ks:
        fit = [one for one in asked if len(one.trajectories) >= k]
        if not fit:
            continue
        num_samples = torch.tensor([len(one.trajectories) for one in fit])
        num_correct = torch.tensor([sum(one.is_correct) for one in fit])
        shares[f"pass@{k}"] = share(pass_at_k(num_samples, num_correct, k).tolist())
        if agreed := [majority_at_k(one.votes, k) for one in fit if not one.is_tested]:
            shares[f"majority@{k}"] = share(agreed)
    return shares


def rates_of(scored_groups: Sequence[ScoredGroup], asked: Sequence[Question]) -> dict[str, float]:
    """Plain means over the trajectories that count, and counts.

    `tool_use` is the share of trajectories with a call; `tool_errors` that of executed calls that did not end well;
    `format_errors` that of turns with a malformed call; `truncated` that of trajectories cut at a limit; `answered`
    that of those that gave an answer; `tokens_per_answer` the sampled tokens of a trajectory that gave one;
    `num_tokens` those of any; `excluded` the share of all trajectories that met an infrastructure failure. What is a
    mean of nothing is left out.
    """
    counted = [one for question in asked for one in question.trajectories]
    turns = [turn for one in counted for turn in one.turns]
    answered = [one for one in counted if one.stop_reason is StopReason.answered]
    results = [turn.tool_result for turn in turns if turn.tool_result is not None]
    num_all = sum(len(scored.group.trajectories) for scored in scored_groups)
    rows: dict[str, list[float]] = {
        "num_turns": [len(one.turns) for one in counted],
        "tool_use": [any(turn.tool_calls for turn in one.turns) for one in counted],
        "tool_errors": [result.status is not ToolStatus.ok for result in results],
        "format_errors": [turn.has_format_error for turn in turns],
        "answered": [one.stop_reason is StopReason.answered for one in counted],
        "truncated": [one.stop_reason in CUT for one in counted],
        "num_tokens": [num_sampled_tokens(one) for one in counted],
        "tokens_per_answer": [num_sampled_tokens(one) for one in answered],
    }
    return {
        "accuracy_stderr": standard_error([question.accuracy for question in asked]),
        "num_problems": len(asked),
        **{name: fmean(row) for name, row in rows.items() if row},
        "excluded": 1 - len(counted) / num_all,
    }


def by_turns(asked: Sequence[Question]) -> tuple[dict[int, Share], dict[int, int]]:
    """Accuracy of the trajectories that took so many turns, and how many did."""
    counts = Counter(len(one.turns) for question in asked for one in question.trajectories)
    shares = {}
    for turns in sorted(counts):
        rows = [question.with_turns(turns) for question in asked]
        shares[turns] = ratio([sum(row) for row in rows], [len(row) for row in rows])
    return shares, dict(sorted(counts.items()))


def by_source(asked: Sequence[Question]) -> dict[str, Share]:
    """Accuracy of the questions of each source."""
    sources: dict[str, list[Question]] = defaultdict(list)
    for question in asked:
        sources[question.source].append(question)
    return {source: share([one.accuracy for one in rows]) for source, rows in sorted(sources.items())}


def num_sampled_tokens(trajectory: Trajectory) -> int:
    """Tokens that the policy sampled."""
    return sum(turn.span[1] - turn.span[0] for turn in trajectory.turns)
