"""What `make benchmarks` tells of the policies of a study: tables, their explanation, and answers to read."""

import re
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from turnwise.report.evaluations import NONE, interval
from turnwise.study.benchmarks import RATES, Answers, ArmOnSet, Policy, kept_groups
from turnwise.study.tables import Rows, markdown
from turnwise.tracker.evaluations import WITHOUT_TOOL, read_results
from turnwise.types import ScoredGroup, Trajectory

HOW_TO_READ = """\
In percent and points; brackets hold 95% intervals over problems. They say what these policies would do on more problems
like these, not what further seeds would: the values by seed are all that is known of that. An accuracy is the mean over
problems of the mean over an arm's seeds.

- **by seed**: the accuracy of each policy.
- **change**: accuracy less that of `start`, the policy that every run began with, problem by problem.
- **ahead of**: accuracy less that of the study's baseline, over the seeds that both have.
- **gain by tool**: accuracy with the tool less that without it, on the same problems.
- **tool use**: share of trajectories with a call; **cut**: of those that ran into a limit, which count as wrong.
- **tokens/answer**: sampled tokens of a trajectory that gave an answer, the mean over policies.
"""
_ON_TERMINAL = ("set", "arm", "accuracy", "change")
"""Columns that a terminal has room for."""


def arm_rows(found: Iterable[ArmOnSet], baseline: str) -> Rows:
    """An arm on a set a row, for people to read; in percent and points, brackets hold 95% intervals over problems."""
    differences = ["change", f"ahead of {baseline}", "gain by tool"]
    rows = [["set", "arm", "accuracy", "by seed", *differences, "tool use", "cut", "tokens/answer"]]
    for one in found:
        is_with_tool, tokens = not one.name.endswith(WITHOUT_TOOL), one.rates.get("tokens_per_answer")
        by_seed = [f"{seed}: {100 * value:.1f}" for seed, value in one.by_seed.items() if seed is not None]
        rows.append(
            [
                _in_words(one.name),
                one.arm,
                interval(one.accuracy),
                ", ".join(by_seed) or NONE,
                *(interval(difference, sign="+") for difference in (one.change, one.ahead, one.tool_gain)),
                f"{one.rates['tool_use']:.0%}" if is_with_tool else NONE,
                f"{one.rates['truncated']:.0%}",
                NONE if tokens is None else f"{tokens:.0f}",
            ]
        )
    return rows


def policy_rows(answers: Iterable[Answers]) -> Rows:
    """A policy on a set a row, as it is; for programs."""
    rows = [["set", "arm", "seed", "accuracy", "low", "high", "num_problems", "num_samples", *RATES, "protocol"]]
    for one in answers:
        result, accuracy = one.result, one.result.accuracy
        seed = "" if one.policy.seed is None else str(one.policy.seed)
        figures = [accuracy.value, accuracy.low, accuracy.high, accuracy.num_problems, result.num_samples]
        rates = [str(result.rates.get(rate, "")) for rate in RATES]
        rows.append([result.name, one.policy.arm, seed, *map(str, figures), *rates, result.protocol])
    return rows


def report(
    rows: Rows, answers: Sequence[Answers], counted: Mapping[str, int], notes: Sequence[str], command: str
) -> str:
    """The text of benchmarks.md: the table, how to read it, what it is of, and how it was made.

    Args:
        rows: The table.
        answers: What it was made from.
        counted: Problems that count for all policies, by set.
        notes: What is missing, and what is not as in the training.
        command: What a reader types to make the same.
    """
    lines = []
    for name, one in {one.result.name: one for one in answers}.items():
        most = max(other.num_asked for other in answers if other.result.name == name)
        left_out = f", of {most}: infrastructure failed on the others for some policy" if counted[name] < most else ""
        samples = f"{counted[name]} problems x {one.result.num_samples} samples"
        lines.append(f"- {_in_words(name)}: {samples}{left_out}; protocol {one.result.protocol}")
    lines += [f"- {note}" for note in notes]
    title = "# The study's policies on benchmarks\n"
    return "\n".join([title, markdown(rows), HOW_TO_READ, "\n".join(lines) + "\n", f"    {command}\n"])


def terminal_table(rows: Rows) -> Table:
    """The most telling columns, for a terminal."""
    header, *body = rows
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name in _ON_TERMINAL:
        table.add_column(name, justify="left" if name in _ON_TERMINAL[:2] else "right", no_wrap=True)
    for row in body:
        table.add_row(*(Text(row[header.index(name)]) for name in _ON_TERMINAL))
    return table


def examples(policies: Sequence[Policy], per_set: int) -> str:
    """Markdown: how the start and the lowest seed of every arm answered the first problems of every set."""
    shown: dict[str, Policy] = {}
    for policy in sorted(policies, key=lambda one: -1 if one.seed is None else one.seed):
        shown.setdefault(policy.arm, policy)
    parts = ["# Answers before and after\n", "The first problems of every set, and the lowest seed of every arm.\n"]
    for name in [result.name for result in read_results(next(iter(shown.values())).folder)]:
        parts.append(f"## {_in_words(name)}\n")
        by_policy = {policy.name: kept_groups(policy, name)[:per_set] for policy in shown.values()}
        for together in zip(*by_policy.values(), strict=True):
            problem = together[0].group.problem
            parts += [f"### {problem.id}\n", f"{_quoted(problem.prompt[-1].content)}\n", "Gold answer:\n"]
            parts.append(_fenced(problem.answer))
            for policy, scored in zip(by_policy, together, strict=True):
                parts.append(f"**{policy}**, {_verdict(scored)}\n")
                parts += _transcript(scored.group.trajectories[0])
    return "\n".join(parts)


def _verdict(scored: ScoredGroup) -> str:
    """How the first sample ended, and how many of several are right."""
    trajectory, num_samples = scored.group.trajectories[0], len(scored.correct_G)
    verdict = "right" if scored.correct_G[0] else "wrong"
    if trajectory.has_infrastructure_failure:
        verdict = "not counted"
    of_many = f"; sample 1 of {num_samples}, {sum(scored.correct_G)} of them right" if num_samples > 1 else ""
    return f"{verdict} ({trajectory.stop_reason}{of_many})"


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
