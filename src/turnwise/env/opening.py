"""What stands before the policy's first turn, whatever the tool is: system message, worked examples, the problem."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from turnwise.types import Message, Problem
from turnwise.worked_examples import ExampleMessage


class Opening(Protocol):
    """The settings of an environment that say how its episodes begin."""

    @property
    def system_prompt(self) -> str:
        """The system message; empty: none."""
        ...

    @property
    def examples(self) -> Sequence[ExampleMessage]:
        """Messages that stand before the problem."""
        ...

    @property
    def problem_suffix(self) -> str:
        """What is appended to the problem's last message."""
        ...


def opening_messages(opening: Opening, problem: Problem) -> tuple[Message, ...]:
    """The opening transcript of `problem`."""
    system = (Message(role="system", content=opening.system_prompt),) if opening.system_prompt else ()
    shown = (Message(role=str(one.role), content=one.content) for one in opening.examples)
    *before, last = problem.prompt
    asked = replace(last, content=last.content + opening.problem_suffix)
    return (*system, *shown, *before, asked)
