"""The task `arithmetic`: generated problems that take a tool, split for good into train and eval."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from random import Random
from typing import Any

from turnwise.seeding import derive_seed
from turnwise.task.families.catalog import FAMILIES, WARM_START_FAMILIES
from turnwise.task.families.family import Draft, Family
from turnwise.types import Message, Problem

EVAL_SHARE = 8
"""One statement in `EVAL_SHARE` belongs to the eval split."""


def is_eval(statement: str) -> bool:
    """The split of a statement, decided by its text alone, so that no seed or stream can move it across."""
    digest = hashlib.blake2b(statement.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % EVAL_SHARE == 0


def draw(family: Family, rng: Random, *, held_out: bool) -> Draft:
    """Draws from `family` until the statement belongs to the wanted split."""
    while is_eval((draft := family.draw(rng)).statement) is not held_out:
        pass
    return draft


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Arithmetic problems by family. Problem i is a pure function of the seed and i; the eval split has no seed."""

    families: list[str] = field(default_factory=lambda: list(WARM_START_FAMILIES))
    """Names of the problem families; empty means all of the catalogue, also those that the tiny policy never saw."""

    def __post_init__(self) -> None:
        for name in self.families:
            if name not in FAMILIES:
                raise ValueError(f"task.families holds {name!r}: expected one of {', '.join(FAMILIES)}")
        if len(set(self.families)) < len(self.families):
            raise ValueError(f"task.families={list(self.families)}: expected each family once")

    def start(self, seed: int) -> "ArithmeticStream":
        """The live task; `seed` orders the train split."""
        return ArithmeticStream(self.chosen(), seed)

    def warm_start_problems(self, seed: int) -> Iterator[tuple[Problem, Family, Draft]]:
        """An endless stream from the train side of the split, balanced over the families, to be demonstrated."""
        for index in count():
            family, draft = _train_draft(self.chosen(), seed, index, "warm_start")
            yield _problem(f"warm_start/{index}", family, draft), family, draft

    def chosen(self) -> tuple[Family, ...]:
        """The families of this task, in order."""
        return tuple(FAMILIES[name] for name in self.families or FAMILIES)


class ArithmeticStream:
    """The live task of `Arithmetic`."""

    name = "arithmetic"

    def __init__(self, families: tuple[Family, ...], seed: int) -> None:
        self._families = families
        self._seed = seed
        self._cursor = 0

    def next_batch(self, num_problems: int) -> list[Problem]:
        """The next problems of the train split; every run of as many problems as there are families holds each once."""
        start, self._cursor = self._cursor, self._cursor + num_problems
        return [
            _problem(f"train/{index}", *_train_draft(self._families, self._seed, index, "train"))
            for index in range(start, self._cursor)
        ]

    def eval_problems(self, num_problems: int) -> list[Problem]:
        """The first problems of the eval split: distinct, the families by turns, the same for every seed."""
        streams = [_eval_drafts(family) for family in self._families]
        rounds = ([next(stream) for stream in streams] for _ in count())
        drafts = (pair for one_round in rounds for pair in zip(self._families, one_round, strict=True))
        return [_problem(f"eval/{index}", *pair) for index, pair in enumerate(islice(drafts, num_problems))]

    def state_dict(self) -> dict[str, Any]:
        """The seed, the families and the index of the next train problem."""
        return {"seed": self._seed, "families": [family.name for family in self._families], "cursor": self._cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the cursor back.

        Raises:
            ValueError: The state was saved by a task with another seed or other families.
        """
        own = self.state_dict()
        for key in ("seed", "families"):
            if state[key] != own[key]:
                raise ValueError(f"task state of {key}={state[key]!r} does not fit this task's {own[key]!r}")
        self._cursor = int(state["cursor"])


def _train_draft(families: tuple[Family, ...], seed: int, index: int, stream: str) -> tuple[Family, Draft]:
    """Draft `index` of a stream; each block of `len(families)` drafts holds every family once, in shuffled order."""
    block, place = divmod(index, len(families))
    order = Random(derive_seed("arithmetic", stream, "order", seed, block)).sample(families, len(families))
    family = order[place]
    return family, draw(family, Random(derive_seed("arithmetic", stream, seed, index)), held_out=False)


def _eval_drafts(family: Family) -> Iterator[Draft]:
    """The distinct eval drafts of a family."""
    rng = Random(derive_seed("arithmetic", "eval", family.name))
    seen: set[str] = set()
    while True:
        draft = draw(family, rng, held_out=True)
        if draft.statement not in seen:
            seen.add(draft.statement)
            yield draft


def _problem(place: str, family: Family, draft: Draft) -> Problem:
    return Problem(
        id=f"arithmetic/{place}",
        prompt=(Message(role="user", content=draft.statement),),
        answer=draft.answer,
        source=family.name,
    )
