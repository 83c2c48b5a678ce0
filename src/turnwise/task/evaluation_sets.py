"""A live task that is evaluated on sets by name and trained on what none of them holds."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from turnwise.protocols import Task
from turnwise.task.contamination import Contamination, counted
from turnwise.task.problem_list import ProblemList
from turnwise.types import Problem

LOGGER = logging.getLogger(__name__)
MAX_ROUNDS = 100
"""Draws for one batch after which a train split that the evaluation sets know whole counts as exhausted."""


class EvaluationSets:
    """A live task. The train split is read when its first batch is asked for; nothing else of it is lazy.

    Train problems that an evaluation set knows (`Contamination`) are removed and counted, of a list of
    problems all at once, of an endless stream as they are drawn, each once however often the cursor is put back.
    """

    def __init__(
        self,
        name: str,
        sets: Mapping[str, Sequence[Problem]],
        *,
        statements: Mapping[str, Sequence[str]],
        start_train: Callable[[], Task] | None,
        train_statement: Callable[[Problem], str],
        contamination_ngram: int,
        held_out: Task | None = None,
    ) -> None:
        """Sets it up.

        Args:
            name: What the task is called.
            sets: The evaluation sets by name.
            statements: What train problems are compared with, by the name of the set.
            start_train: Makes what train problems come from; None where there are none.
            train_statement: A train problem's statement, without an instruction that others share.
            contamination_ngram: How many words in a row give a problem away.
            held_out: A task whose own evaluation sets come before `sets`; none of them holds what it trains on.
        """
        self.name = name
        self._before: dict[str, int] = {}
        """What the train task itself had removed."""
        self._known: dict[str, set[str]] = {}
        """Ids of the train problems that are removed here, by the evaluation set that knows them."""
        self._sets = sets
        self._statements = statements
        self._start_train = start_train
        self._train_statement = train_statement
        self._contamination_ngram = contamination_ngram
        self._held_out = held_out

    @property
    def removed(self) -> dict[str, int]:
        """How many train problems were removed, by the evaluation set that knows them; reads nothing.

        Of a list all of them from its first batch on, of an endless stream those that were met so far.
        """
        here = {name: len(ids) for name, ids in self._known.items()}
        return {name: self._before.get(name, 0) + here.get(name, 0) for name in {**self._before, **here}}

    def eval_sets(self, num_problems: int) -> dict[str, list[Problem]]:
        """The first problems of each set, all of them when it holds no more than that.

        Raises:
            ValueError: There is no evaluation set.
        """
        own = {} if self._held_out is None else self._held_out.eval_sets(num_problems)
        first = {name: list(problems[:num_problems]) for name, problems in {**own, **self._sets}.items()}
        if not first:
            raise ValueError(f"task {self.name!r} has no evaluation set: put it into a suite, as its train task")
        return first

    def next_batch(self, num_problems: int) -> list[Problem]:
        """The next train problems that no evaluation set knows; moves the cursor.

        Raises:
            ValueError: There is no train split, or it holds too few such problems.
        """
        train = self._train
        if isinstance(train, ProblemList):
            return train.next_batch(num_problems)
        known_before = set(self._known)
        batch: dict[str, Problem] = {}
        for _ in range(MAX_ROUNDS):
            drawn = train.next_batch(num_problems - len(batch))
            batch |= {problem.id: problem for problem in drawn if self._is_new(problem)}
            if len(batch) == num_problems:
                break
        for name in self._known.keys() - known_before:
            LOGGER.warning("task %s: train problems known from %s are removed as they are drawn", self.name, name)
        if len(batch) == num_problems:
            return list(batch.values())
        raise ValueError(
            f"task {self.name!r}: {MAX_ROUNDS} draws gave {len(batch)} of {num_problems} train problems that no "
            f"evaluation set knows; removed: {counted(self.removed)}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The cursor of the train split; of a stream also what was removed, which no other draw would find."""
        state = self._train.state_dict()
        if isinstance(self._train, ProblemList):
            return state
        return {"stream": state, "removed": {name: sorted(ids) for name, ids in self._known.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the cursor back; what was removed is what the state says and what was met before."""
        if isinstance(self._train, ProblemList):
            self._train.load_state_dict(state)
            return
        self._train.load_state_dict(state["stream"])
        for name, ids in state["removed"].items():
            self._known.setdefault(name, set()).update(ids)

    @cached_property
    def _train(self) -> Task:
        if self._start_train is None:
            raise ValueError(f"task {self.name!r} has no train split: it is for mode=evaluate")
        train = self._start_train()
        self._before.update(train.removed)
        if not isinstance(train, ProblemList):
            return train
        train = train.keeping(self._is_new)
        if self.removed:
            LOGGER.warning("task %s: train problems removed: %s", self.name, counted(self.removed))
        return train

    @cached_property
    def _contamination(self) -> Contamination:
        return Contamination(self._statements, self._contamination_ngram)

    def _is_new(self, problem: Problem) -> bool:
        """Whether no evaluation set knows the problem; notes it otherwise."""
        name = self._contamination.known_from(self._train_statement(problem))
        if name is not None:
            self._known.setdefault(name, set()).add(problem.id)
        return name is None
