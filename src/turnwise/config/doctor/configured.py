"""What can be checked of problems and prompts before anything is loaded."""

from collections.abc import Mapping, Sequence
from itertools import chain

from turnwise.config.checks import listed
from turnwise.config.evaluating import without_tool
from turnwise.config.parts import Components
from turnwise.config.wiring import num_positions
from turnwise.env.opening import Opening, opening_messages
from turnwise.evaluation.settings import Tools
from turnwise.model.chat import ChatRenderer
from turnwise.preflight.finding import Finding
from turnwise.protocols import Task
from turnwise.reward.grading import ungradable
from turnwise.types import Problem


def check_problems(components: Components, task: Task, finding: Finding) -> None:
    """Both splits can be drawn, and what overlapped was taken out."""
    for name, problems in task.eval_sets(components.evaluation.num_problems).items():
        finding.note(f"evaluation set {name}: {len(problems)} problems")
        wanted = components.evaluation.num_problems
        if len(problems) < wanted:
            finding.note(f"    fewer than evaluation.num_problems={wanted}: all that there are")
    if not components.task.has_train:
        finding.note("nothing to train on: for mode=evaluate")
        return
    cursor = task.state_dict()
    try:
        first = task.next_batch(components.rollout.num_problems)
    except ValueError as error:
        finding.warn(f"nothing could be trained on: {error}", "mode=evaluate alone, or another split of the problems")
        return
    task.load_state_dict(cursor)
    finding.note(f"training: steps of {len(first)} problems x {components.rollout.group_size} trajectories")
    for name, count in task.removed.items():
        finding.note(f"    {count} train problems were removed that overlap with {name}")
    if not task.removed:
        finding.note("    no train problem overlaps with an evaluation set, as far as was read")


def check_gold(components: Components, task: Task, finding: Finding) -> None:
    """Every gold answer of the evaluation sets is right by the grader's own measure."""
    problems = eval_problems(components, task)
    compared = [problem for problem in problems if not problem.tests]
    dubious = ungradable(compared, components.reward.grader)
    wrong = [problem for problem in dubious if not components.reward.grader(problem.answer, problem.answer)]
    finding.note(f"{len(compared)} gold answers are compared, {len(problems) - len(compared)} problems are tested")
    if wrong:
        finding.fail(
            f"{len(wrong)} of {len(compared)} do not grade themselves correct: {listed(wrong)}",
            "mend these answers in the file of the problems; an answer that nobody can give right lowers every number",
        )
    if as_text := [problem for problem in dubious if problem not in wrong]:
        finding.warn(
            f"{len(as_text)} of {len(compared)} are right only word for word: {listed(as_text)}",
            "see whether they are meant as words; else write them as mathematics that math-verify reads",
        )


MIN_ROOM = 32
"""Tokens behind a prompt below which hardly a call, its output and an answer fit."""


def check_prompt_lengths(components: Components, task: Task, renderer: ChatRenderer, finding: Finding) -> None:
    """The prompts, as the environment opens them, leave room for turns."""
    limit = components.rollout.max_tokens
    if limit > (positions := num_positions(components.model.empty_model())):
        finding.fail(f"rollout.max_tokens={limit}, but the model has {positions} positions", "less, or another model")
    openings: dict[str, Opening] = {"with the tool": components.env}
    if components.evaluation.tools is not Tools.on:
        openings["without the tool"] = without_tool(components)
    for name, opening in openings.items():
        lengths = prompt_lengths(opening, eval_problems(components, task), renderer)
        too_long = sum(length >= limit for length in lengths)
        remedy = f"rollout.max_tokens={max(lengths) + max(lengths) // 2} or more, or shorter prompts or examples"
        finding.note(f"{name}: {min(lengths)} to {max(lengths)} tokens of rollout.max_tokens={limit}")
        if too_long == len(lengths):
            finding.fail("no prompt leaves room for a turn", remedy)
        elif too_long:
            finding.warn(f"{too_long} of {len(lengths)} prompts leave no room for a turn and count as wrong", remedy)
        elif (room := limit - max(lengths)) < MIN_ROOM:
            finding.warn(f"the longest prompt leaves {room} tokens for all turns and what the tool says", remedy)


def prompt_lengths(opening: Opening, problems: Sequence[Problem], renderer: ChatRenderer) -> list[int]:
    """Tokens of each problem's prompt."""
    return [len(renderer.prompt_ids(opening_messages(opening, problem))) for problem in problems]


def eval_problems(components: Components, task: Task) -> list[Problem]:
    """Those of all evaluation sets."""
    return list(chain.from_iterable(eval_sets(components, task).values()))


def eval_sets(components: Components, task: Task) -> Mapping[str, Sequence[Problem]]:
    """By name."""
    return task.eval_sets(components.evaluation.num_problems)
