"""The task `lookup`: follow keys through a store whose values are keys, for a tool that knows it (`env=lookup`)."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from turnwise.key_values import FIRST, LAST, KeyValueStore
from turnwise.task.families.family import RESULT, Draft
from turnwise.task.generated import GeneratedProblems

NAME = "lookup"
LONGEST = 8


@dataclass(frozen=True, kw_only=True)
class Hops:
    """Problems whose answer is `length` look-ups away."""

    length: int

    @property
    def name(self) -> str:
        """What their figures are called."""
        return f"hops_{self.length}"

    def draw(self, rng: Random, /) -> Draft:
        """A key to start from; each look-up but the first needs the value of the one before."""
        first = value = str(rng.randint(FIRST, LAST))
        statement = f"Look up the key {first}."
        if self.length > 1:
            statement += f" Its value is the next key: look that up, and so on, {self.length} look-ups in all."
        statement += " What is the last value?"
        store = KeyValueStore(name=statement)
        for _ in range(self.length):
            value = store[value]
        return Draft(statement=statement, answer=value, programs=(first, *[RESULT] * (self.length - 1)))


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Chains of look-ups. Problem i is a pure function of the seed and i; the eval split has no seed."""

    tool_language: ClassVar[str] = "lookup"
    """What calls name: no other tool knows the values."""
    has_train: ClassVar[bool] = True
    """It can be trained on."""

    num_hops: int = 2
    """Look-ups of a problem, 1 to 8."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_hops <= LONGEST:
            raise ValueError(f"num_hops={self.num_hops}: expected 1 to {LONGEST}")

    def start(self, seed: int) -> GeneratedProblems:
        """The live task; `seed` orders the train split."""
        return GeneratedProblems(NAME, (Hops(length=self.num_hops),), seed)
