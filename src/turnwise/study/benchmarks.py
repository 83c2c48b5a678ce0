"""The policies of a study on benchmarks: each arm's runs against the policy that they began with, set by set.

The problem is the unit, as in every evaluation: an arm's accuracy on a problem is the mean over its seeds, and the
intervals are those of `turnwise.evaluation.shares` over these. So they speak of these policies on problems like these;
how further seeds would differ, the values by seed can only hint at.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from turnwise.evaluation.figures import questions
from turnwise.evaluation.shares import paired_difference, share
from turnwise.report.evaluations import NONE, interval
from turnwise.study.tables import Rows
from turnwise.tracker.bundle import bundle_path, read_groups
from turnwise.tracker.evaluations import WITHOUT_TOOL, Difference, SetResult, Share, read_results, set_folder
from turnwise.types import ScoredGroup, Trajectory

START = "start"
"""Stands for the policy that every run began with, in the place of an arm."""
_RATES = ("tool_use", "tool_errors", "truncated", "tokens_per_answer")
"""Of `SetResult.rates`, those that are handed on."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One policy, and where its evaluation lies."""

    arm: str
    """An arm of the study, or `START`."""
    seed: int | None
    """Of the run that trained it; None of the start."""
    folder: Path
    """That of its `mode=evaluate`."""

    @property
    def name(self) -> str:
        """Arm and seed, in words."""
        return self.arm if self.seed is None else f"{self.arm} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one policy came to on one set."""

    policy: Policy
    result: SetResult
    accuracies: Mapping[str, float]
    """Share of right answers by problem that counts."""
    num_asked: int
    """Problems of the set, with those on which infrastructure failed."""


@dataclass(frozen=True, kw_only=True)
class ArmOnSet:
    """What the policies of an arm came to on one set."""

    name: str
    """Of the set; it ends in `WITHOUT_TOOL` where it was answered so."""
    arm: str
    accuracy: Share
    by_seed: Mapping[int | None, float]
    """The accuracy of each policy; None stands for the start, which has no seed."""
    change: Difference | None
    """Accuracy less that of the start; None of the start."""
    ahead: Difference | None
    """Accuracy less that of the study's baseline; None of the baseline and of the start."""
    tool_gain: Difference | None
    """Accuracy with the tool less that without; None without the tool, or where only one was measured."""
    rates: Mapping[str, float]
    """Means over the policies of the plain rates of `SetResult`, over all problems that count for them."""


def read_answers(policy: Policy) -> list[Answers]:
    """The finished evaluations in a policy's folder.

    Raises:
        FileNotFoundError: The trajectories of one were not kept.
        ValueError: There is none, or a file is broken.
    """
    found = []
    for result in read_results(policy.folder):
        groups = _groups(policy, result.name)
        accuracies = {one.problem_id: one.accuracy for one in questions(groups)}
        found.append(Answers(policy=policy, result=result, accuracies=accuracies, num_asked=len(groups)))
    if not found:
        raise ValueError(f"{policy.folder} holds no finished evaluation")
    return found


def compare_arms(answers: Sequence[Answers], baseline: str) -> list[ArmOnSet]:
    """Every arm on every set, over the problems that count for all policies.

    Where a set was answered both with the tool and without, they count both ways.

    Raises:
        ValueError: Two policies answered a set by different protocols, or have no problem in common.
    """
    by_set: defaultdict[str, list[Answers]] = defaultdict(list)
    for one in answers:
        by_set[one.result.name].append(one)
    found: list[ArmOnSet] = []
    for name, here in by_set.items():
        with_tool = name.removesuffix(WITHOUT_TOOL)
        both = [by_set.get(with_tool, []), by_set.get(with_tool + WITHOUT_TOOL, [])]
        has_pair = {one.policy for one in both[0]} == {one.policy for one in both[1]}
        _check_protocol(here)
        problems = _common_problems([*both[0], *both[1]] if has_pair else here, name)
        means = {arm: _means(here, arm, problems) for arm in dict.fromkeys(one.policy.arm for one in here)}
        for arm, own in means.items():
            of_arm = [one for one in here if one.policy.arm == arm]
            rates = {rate: [one.result.rates[rate] for one in of_arm if rate in one.result.rates] for rate in _RATES}
            is_gain = has_pair and name == with_tool
            found.append(
                ArmOnSet(
                    name=name,
                    arm=arm,
                    accuracy=share(own),
                    by_seed={one.policy.seed: fmean(one.accuracies[problem] for problem in problems) for one in of_arm},
                    change=_difference(own, means.get(START)) if arm != START else None,
                    ahead=_difference(own, means.get(baseline)) if arm not in (START, baseline) else None,
                    tool_gain=_difference(own, _means(both[1], arm, problems)) if is_gain else None,
                    rates={rate: fmean(values) for rate, values in rates.items() if values},
                )
            )
    return found


def arm_rows(found: Iterable[ArmOnSet], baseline: str) -> Rows:
    """An arm on a set a row, for people to read; in percent and points, brackets hold 95% intervals over problems."""
    rows = [
        ["set", "arm", "accuracy", "by seed", "change", f"ahead of {baseline}", "gain by tool", "tool use", "tokens"]
    ]
    for one in found:
        tool_use, tokens = one.rates.get("tool_use"), one.rates.get("tokens_per_answer")
        by_seed = [f"{seed}: {100 * value:.1f}" for seed, value in one.by_seed.items() if seed is not None]
        rows.append(
            [
                _in_words(one.name),
                one.arm,
                interval(one.accuracy),
                ", ".join(by_seed) or NONE,
                *(interval(difference, sign="+") for difference in (one.change, one.ahead, one.tool_gain)),
                NONE if tool_use is None or one.name.endswith(WITHOUT_TOOL) else f"{tool_use:.0%}",
                NONE if tokens is None else f"{tokens:.0f}",
            ]
        )
    return rows


def policy_rows(answers: Iterable[Answers]) -> Rows:
    """A policy on a set a row, as it is; for programs."""
    rows = [["set", "arm", "seed", "accuracy", "low", "high", "num_problems", "num_samples", *_RATES, "protocol"]]
    for one in answers:
        result, accuracy = one.result, one.result.accuracy
        seed = "" if one.policy.seed is None else str(one.policy.seed)
        figures = [accuracy.value, accuracy.low, accuracy.high, accuracy.num_problems, result.num_samples]
        rates = [str(result.rates.get(rate, "")) for rate in _RATES]
        rows.append([result.name, one.policy.arm, seed, *map(str, figures), *rates, result.protocol])
    return rows


def examples(policies: Sequence[Policy], per_set: int) -> str:
    """Markdown: how the start and the lowest seed of every arm answered the first problems of every set."""
    shown: dict[str, Policy] = {}
    for policy in sorted(policies, key=lambda one: -1 if one.seed is None else one.seed):
        shown.setdefault(policy.arm, policy)
    parts = ["# Answers before and after\n", "The first problems of every set, and the lowest seed of every arm.\n"]
    for name in [result.name for result in read_results(next(iter(shown.values())).folder)]:
        parts.append(f"## {_in_words(name)}\n")
        by_policy = {policy.name: _groups(policy, name)[:per_set] for policy in shown.values()}
        for together in zip(*by_policy.values(), strict=True):
            problem = together[0].group.problem
            parts += [f"### {problem.id}\n", f"{_quoted(problem.prompt[-1].content)}\n", "Gold answer:\n"]
            parts.append(_fenced(problem.answer))
            for policy, scored in zip(by_policy, together, strict=True):
                trajectory = scored.group.trajectories[0]
                parts.append(f"**{policy}**, {_verdict(trajectory, is_correct=scored.correct_G[0])}\n")
                parts += _transcript(trajectory)
    return "\n".join(parts)


def _verdict(trajectory: Trajectory, *, is_correct: bool) -> str:
    if trajectory.has_infrastructure_failure:
        return f"not counted ({trajectory.stop_reason})"
    return f"{'right' if is_correct else 'wrong'} ({trajectory.stop_reason})"


def _groups(policy: Policy, name: str) -> list[ScoredGroup]:
    return [scored for scored, _ in read_groups(bundle_path(set_folder(policy.folder, name), 0))]


def _transcript(trajectory: Trajectory) -> list[str]:
    """What was sampled and what the tool printed."""
    parts = []
    for turn in trajectory.turns:
        parts.append(_fenced(turn.text))
        if turn.tool_result is not None:
            parts += [f"Output ({turn.tool_result.status}):\n", _fenced(turn.tool_result.output)]
    return parts


def _fenced(text: str) -> str:
    """In a fence that is longer than any that the text holds."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text.rstrip()}\n{fence}\n"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())


def _in_words(name: str) -> str:
    plain = name.removesuffix(WITHOUT_TOOL)
    return plain if plain == name else f"{plain}, no tool"


def _common_problems(answers: Sequence[Answers], name: str) -> list[str]:
    """Problems that count for every policy: where infrastructure failed for one, none is scored on it."""
    first, *others = answers
    problems = [problem for problem in first.accuracies if all(problem in one.accuracies for one in others)]
    if not problems:
        raise ValueError(f"{name}: no problem counts for every policy")
    return problems


def _check_protocol(answers: Sequence[Answers]) -> None:
    protocols = {one.result.protocol: one.policy.folder for one in answers}
    if len(protocols) > 1:
        (one, folder), (other, there), *_ = protocols.items()
        raise ValueError(f"{answers[0].result.name}: {folder} has protocol {one}, {there} has {other}")


def _means(answers: Sequence[Answers], arm: str, problems: Sequence[str]) -> list[float]:
    """An arm's accuracy on each problem, the mean over its policies."""
    of_arm = [one.accuracies for one in answers if one.policy.arm == arm]
    return [fmean(one[problem] for one in of_arm) for problem in problems]


def _difference(own: Sequence[float], others: Sequence[float] | None) -> Difference | None:
    return None if others is None else paired_difference(own, others)
