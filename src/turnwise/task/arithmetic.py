"""The task `arithmetic`: generated problems that take a tool, split for good into train and eval."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from turnwise.protocols import Demonstrator
from turnwise.seeding import derive_seed
from turnwise.task.families.catalog import FAMILIES, WARM_START_FAMILIES
from turnwise.task.families.family import Family
from turnwise.task.generated import GeneratedProblems, warm_start_drafts
from turnwise.task.transcripts import Flaws, demonstrate
from turnwise.types import Problem

NAME = "arithmetic"


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Arithmetic problems by family. Problem i is a pure function of the seed and i; the eval split has no seed."""

    tool_language: ClassVar[str] = "python"
    """What calls are written in: some families ask for more than single operations on small numbers can give."""
    has_train: ClassVar[bool] = True
    """It can be trained on."""

    families: list[str] = field(default_factory=lambda: list(WARM_START_FAMILIES))
    """Names of the problem families; empty means all of the catalogue, also those that the tiny policy never saw."""

    flaws: Flaws = field(default_factory=Flaws)
    """What goes wrong in demonstrations for the warm start, and how often."""

    def __post_init__(self) -> None:
        for name in self.families:
            if name not in FAMILIES:
                raise ValueError(f"task.families holds {name!r}: expected one of {', '.join(FAMILIES)}")
        if len(set(self.families)) < len(self.families):
            raise ValueError(f"task.families={list(self.families)}: expected each family once")

    def start(self, seed: int) -> GeneratedProblems:
        """The live task; `seed` orders the train split."""
        return GeneratedProblems(NAME, self.chosen(), seed)

    def demonstrations(self, seed: int) -> Iterator[tuple[Problem, Demonstrator]]:
        """An endless stream of problems from the train side of the split, each with someone who solves it with Python.

        Balanced over the families.
        """
        rng = Random(derive_seed(seed, "flaws"))
        for problem, family, draft in warm_start_drafts(NAME, self.chosen(), seed):
            yield problem, demonstrate(family, draft, self.flaws, rng).next_turn

    def chosen(self) -> tuple[Family, ...]:
        """The families of this task, in order."""
        return tuple(FAMILIES[name] for name in self.families or FAMILIES)
