"""The policies of a study on benchmarks: each arm's runs against the policy that they began with, set by set.

The problem is the unit, as in every evaluation: an arm's accuracy on a problem is the mean over its seeds, and the
intervals are those of `turnwise.evaluation.shares` over these. So they speak of these policies on problems like these;
how further seeds would differ, the values by seed can only hint at.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from turnwise.evaluation.figures import questions
from turnwise.evaluation.shares import paired_difference, share
from turnwise.tracker.bundle import bundle_path, read_groups
from turnwise.tracker.evaluations import WITHOUT_TOOL, Difference, SetResult, Share, read_results, set_folder
from turnwise.types import ScoredGroup

START = "start"
"""Stands for the policy that every run began with, in the place of an arm."""
RATES = ("tool_use", "tool_errors", "truncated", "tokens_per_answer")
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
    """Accuracy less that of the study's baseline over the seeds that both have; None of the baseline and of the start,
    and without a common seed."""
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
        groups = kept_groups(policy, result.name)
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
            rates = {rate: [one.result.rates[rate] for one in of_arm if rate in one.result.rates] for rate in RATES}
            is_gain = has_pair and name == with_tool
            found.append(
                ArmOnSet(
                    name=name,
                    arm=arm,
                    accuracy=share(own),
                    by_seed={one.policy.seed: fmean(one.accuracies[problem] for problem in problems) for one in of_arm},
                    change=_difference(own, means.get(START)) if arm != START else None,
                    ahead=_ahead(here, arm, baseline, problems) if arm not in (START, baseline) else None,
                    tool_gain=_difference(own, _means(both[1], arm, problems)) if is_gain else None,
                    rates={rate: fmean(values) for rate, values in rates.items() if values},
                )
            )
    return found


def kept_groups(policy: Policy, name: str) -> list[ScoredGroup]:
    """The trajectories of a policy on a set, problem by problem."""
    return [scored for scored, _ in read_groups(bundle_path(set_folder(policy.folder, name), 0))]


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


def _ahead(answers: Sequence[Answers], arm: str, baseline: str, problems: Sequence[str]) -> Difference | None:
    """Of an arm to the baseline, over their common seeds."""
    seeds, others = ({one.policy.seed for one in answers if one.policy.arm == name} for name in (arm, baseline))
    common = [one for one in answers if one.policy.seed in seeds & others]
    return paired_difference(*(_means(common, name, problems) for name in (arm, baseline))) if common else None


def _difference(own: Sequence[float], others: Sequence[float] | None) -> Difference | None:
    return None if others is None else paired_difference(own, others)
