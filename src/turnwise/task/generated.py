"""Problems that are drawn, not listed: endless seeded streams, split for good into train and eval."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from random import Random
from typing import Any, Protocol, TypeVar

from turnwise.seeding import derive_seed
from turnwise.task.families.family import Draft
from turnwise.types import Message, Problem

EVAL_SHARE = 8
"""One statement in `EVAL_SHARE` belongs to the eval split."""


class Source(Protocol):
    """A kind of problem that can be drawn, such as a `Family`."""

    @property
    def name(self) -> str:
        """What problems of this kind are called in reports."""
        ...

    def draw(self, rng: Random, /) -> Draft:
        """Draws one, whatever its split."""
        ...


MAX_REPEATS = 1000
"""Draws in a row that give nothing new before a source counts as exhausted."""
AnySource = TypeVar("AnySource", bound=Source)


def is_eval(statement: str) -> bool:
    """The split of a statement, decided by its text alone, so that no seed or stream can move it across."""
    digest = hashlib.blake2b(statement.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % EVAL_SHARE == 0


def draw(source: Source, rng: Random, *, held_out: bool) -> Draft:
    """Draws from `source` until the statement belongs to the wanted split."""
    while is_eval((draft := source.draw(rng)).statement) is not held_out:
        pass
    return draft


def train_draft(
    task: str, sources: Sequence[AnySource], seed: int, index: int, stream: str = "train"
) -> tuple[AnySource, Draft]:
    """Draft `index` of a stream; each block of `len(sources)` drafts holds every source once, in shuffled order."""
    block, place = divmod(index, len(sources))
    order = Random(derive_seed(task, stream, "order", seed, block)).sample(sources, len(sources))
    source = order[place]
    return source, draw(source, Random(derive_seed(task, stream, seed, index)), held_out=False)


def warm_start_drafts(task: str, sources: Sequence[AnySource], seed: int) -> Iterator[tuple[Problem, AnySource, Draft]]:
    """An endless stream from the train side of the split, balanced over the sources, to be demonstrated."""
    for index in count():
        source, draft = train_draft(task, sources, seed, index, "warm_start")
        yield _problem(task, f"warm_start/{index}", source, draft), source, draft


class GeneratedProblems:
    """A live task. Problem i is a pure function of the seed and i; the eval split has no seed."""

    def __init__(self, name: str, sources: Sequence[Source], seed: int) -> None:
        self.name = name
        self.removed: dict[str, int] = {}
        """None has to be: the splits are apart from the beginning."""
        self._sources = sources
        self._seed = seed
        self._cursor = 0

    def next_batch(self, num_problems: int) -> list[Problem]:
        """The next problems of the train split; every run of as many problems as there are sources holds each once."""
        start, self._cursor = self._cursor, self._cursor + num_problems
        return [
            _problem(self.name, f"train/{index}", *train_draft(self.name, self._sources, self._seed, index))
            for index in range(start, self._cursor)
        ]

    def eval_problems(self, num_problems: int) -> list[Problem]:
        """The first problems of the eval split: distinct, the sources by turns, the same for every seed."""
        streams = [_eval_drafts(self.name, source) for source in self._sources]
        rounds = ([next(stream) for stream in streams] for _ in count())
        drafts = (pair for one_round in rounds for pair in zip(self._sources, one_round, strict=True))
        return [_problem(self.name, f"eval/{index}", *pair) for index, pair in enumerate(islice(drafts, num_problems))]

    def eval_sets(self, num_problems: int) -> dict[str, list[Problem]]:
        """The one evaluation set, under the task's own name."""
        return {self.name: self.eval_problems(num_problems)}

    def state_dict(self) -> dict[str, Any]:
        """The seed, the names of the sources and the index of the next train problem."""
        return {"seed": self._seed, "families": [source.name for source in self._sources], "cursor": self._cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the cursor back.

        Raises:
            ValueError: The state was saved by a task with another seed or other sources.
        """
        own = self.state_dict()
        for key in ("seed", "families"):
            if state[key] != own[key]:
                raise ValueError(f"task state of {key}={state[key]!r} does not fit this task's {own[key]!r}")
        self._cursor = int(state["cursor"])


def _eval_drafts(task: str, source: Source) -> Iterator[Draft]:
    """The distinct eval drafts of a source.

    Raises:
        ValueError: There are no more of them, or so few that they are hardly found.
    """
    rng = Random(derive_seed(task, "eval", source.name))
    seen: set[str] = set()
    repeats = 0
    while repeats < MAX_REPEATS:
        draft = draw(source, rng, held_out=True)
        repeats += 1
        if draft.statement not in seen:
            seen.add(draft.statement)
            repeats = 0
            yield draft
    raise ValueError(f"evaluation.num_problems: {task} has no more than {len(seen)} held-out problems of {source.name}")


def _problem(task: str, place: str, source: Source, draft: Draft) -> Problem:
    return Problem(
        id=f"{task}/{place}",
        prompt=(Message(role="user", content=draft.statement),),
        answer=draft.answer,
        source=source.name,
    )
