"""No problem that is trained on is evaluated on, by its statement."""

from collections.abc import Mapping, Sequence

from turnwise.preflight.finding import Finding
from turnwise.protocols import Task
from turnwise.types import Problem

NUM_DRAWN = 512
"""Problems of the train split that are looked at."""
MAX_SHOWN = 3


def check_splits(task: Task, eval_sets: Mapping[str, Sequence[Problem]], num_problems: int, finding: Finding) -> None:
    """Draws the first steps of training and looks for their statements among the evaluation sets.

    Args:
        task: With a train split; its cursor is as it was afterwards.
        eval_sets: By name.
        num_problems: Of a step.
        finding: Where to say it.
    """
    cursor = task.state_dict()
    drawn: dict[str, Problem] = {}
    for _ in range(max(1, NUM_DRAWN // num_problems)):
        drawn |= {statement(problem): problem for problem in task.next_batch(num_problems)}
    task.load_state_dict(cursor)
    for name, problems in eval_sets.items():
        shared = [problem for problem in problems if statement(problem) in drawn]
        if shared:
            shown = "; ".join(f"{one.id}: {one.prompt[-1].content[:60]!r}" for one in shared[:MAX_SHOWN])
            finding.fail(
                f"{len(shared)} problems of {name} are trained on too: {shown}",
                "take them out of one of the two files; a number on problems that were trained on means nothing",
            )
    num_held_out = sum(map(len, eval_sets.values()))
    finding.note(f"{len(drawn)} statements of the first steps, and {num_held_out} that are held out")


def statement(problem: Problem) -> str:
    """What is asked, without what differs in spaces and case alone."""
    return " ".join(problem.prompt[-1].content.casefold().split())
