"""The task `chain`: expressions whose operations depend on one another, so that the horizon of credit is an option."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from turnwise.protocols import Demonstrator
from turnwise.seeding import derive_seed
from turnwise.task.chain_transcripts import LABELS, ChainFlaws, demonstrate
from turnwise.task.families.family import RESULT, Draft
from turnwise.task.generated import GeneratedProblems, warm_start_drafts
from turnwise.types import Problem

NAME = "chain"
SHORTEST, LONGEST = 2, len(LABELS)
LARGEST = 999
"""No value on the way is larger, and none is below 1: a small policy copies it from the tool's reply."""


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """Chains of `length` operations."""

    length: int

    @property
    def name(self) -> str:
        """What their figures are called."""
        return f"horizon_{self.length}"

    def draw(self, rng: Random, /) -> Draft:
        """A number and labelled steps from it; each takes one call, and each call but the first the result before."""
        first = value = rng.randint(10, 99)
        steps = []
        for _ in range(self.length):
            sign, operand, value = _step(value, rng)
            steps.append(f"{sign} {operand}")
        lines = [f"{label}: {step}" for label, step in zip(LABELS, steps, strict=False)]
        calls = [f"{before} {step}" for before, step in zip([first, *[RESULT] * (self.length - 1)], steps, strict=True)]
        return Draft(statement="\n".join([f"Start at {first}", *lines]), answer=str(value), programs=tuple(calls))


def _step(value: int, rng: Random) -> tuple[str, int, int]:
    """An operation on `value` with a result in 1..LARGEST: its sign, its operand of one digit, and the result."""
    largest = {"+": min(9, LARGEST - value), "-": min(9, value - 1), "*": min(9, LARGEST // value)}
    sign = rng.choice([sign for sign, operand in largest.items() if operand >= 2])
    operand = rng.randint(2, largest[sign])
    return sign, operand, {"+": value + operand, "-": value - operand, "*": value * operand}[sign]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Expressions of dependent operations, for a tool that does one operation a call (`env=calculator`).

    Problem i is a pure function of the seed and i; the eval split has no seed.
    """

    tool_language: ClassVar[str] = "calculator"
    """What calls are written in: a program would do all operations in one call, whatever the horizon."""
    has_train: ClassVar[bool] = True
    """It can be trained on."""

    horizon: int = 5
    """Operations of a problem, 2 to 8; a warm start shows problems of every horizon up to this one."""

    flaws: ChainFlaws = field(default_factory=ChainFlaws)
    """What goes wrong in demonstrations for the warm start, and how often."""

    def __post_init__(self) -> None:
        if not SHORTEST <= self.horizon <= LONGEST:
            raise ValueError(f"horizon={self.horizon}: expected {SHORTEST} to {LONGEST}")

    def start(self, seed: int) -> GeneratedProblems:
        """The live task; `seed` orders the train split."""
        return GeneratedProblems(NAME, (Horizon(length=self.horizon),), seed)

    def demonstrations(self, seed: int) -> Iterator[tuple[Problem, Demonstrator]]:
        """An endless stream of problems from the train side of the split, each with someone who solves it.

        Balanced over the horizons up to this task's own.
        """
        horizons = [Horizon(length=length) for length in range(SHORTEST, self.horizon + 1)]
        rng = Random(derive_seed(seed, "flaws"))
        for problem, _, draft in warm_start_drafts(NAME, horizons, seed):
            yield problem, demonstrate(draft, self.flaws, rng).next_turn
