"""The component behind `task=suite_math` and its like: several benchmarks at once, and what is trained on."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from turnwise.protocols import Task
from turnwise.task.benchmark import Benchmark
from turnwise.task.evaluation_sets import EvaluationSets
from turnwise.types import Problem


@runtime_checkable
class TrainTask(Protocol):
    """A task, not yet started, that can be trained on."""

    @property
    def tool_language(self) -> str | None:
        """What calls are written in by those who can solve its problems."""
        ...

    @property
    def has_train(self) -> bool:
        """Whether there is anything to train on."""
        ...

    def start(self, seed: int) -> Task:
        """The live task."""
        ...


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Benchmarks to evaluate on side by side, composed by their options, and another task to train on.

    An option of the group `task` is put in by its place, in YAML or on the command line:

        defaults:
          - /schema/task/suite@_here_
          - /task/gsm8k@members.gsm8k
          - /task/reasoning_gym@train
          - _self_

    Where the train task has evaluation sets of its own, those are evaluated too, before the members, unless `only`
    chooses among these.
    """

    name: str = "suite"
    """What it is called."""
    members: dict[str, Any] = field(default_factory=dict)
    """The benchmarks by what their evaluation sets are called."""
    train: Any = None
    """What is trained on: a task of any kind with a train split; None: nothing."""
    path: str | None = None
    """Folder with a file for every member that has no path of its own; None: the hub."""
    only: list[str] = field(default_factory=list)
    """Names of members, to evaluate on those alone; empty: all."""
    contamination_ngram: int = 13
    """Train problems that share so many words in a row with an evaluated one are removed; 0: only equal ones."""

    def __post_init__(self) -> None:
        for name, member in self.members.items():
            if not isinstance(member, Benchmark) or not member.split:
                raise ValueError(f"members.{name}: expected a benchmark that can be evaluated on, such as task/gsm8k")
        if self.train is not None and not (isinstance(self.train, TrainTask) and self.train.has_train):
            raise ValueError("train: expected a task with a train split, put in by +task@task.train=NAME")
        for name in self.only:
            if name not in self.members:
                raise ValueError(f"only={list(self.only)}: {name!r} is no member; they are {', '.join(self.members)}")
        if not self.members and self.train is None:
            raise ValueError("members={}: expected at least one, put in by +task@task.members.NAME=NAME")
        if self.contamination_ngram < 0:
            raise ValueError(f"contamination_ngram={self.contamination_ngram}: expected >= 0")
        if len(languages := self._languages()) > 1:
            raise ValueError(f"members and train: their problems are for tools that are called in {languages}")

    @property
    def tool_language(self) -> str | None:
        """That of the members and the train task which have one."""
        return next(iter(self._languages()), None)

    @property
    def has_train(self) -> bool:
        """Whether there is anything to train on."""
        return self.train is not None

    def start(self, seed: int) -> EvaluationSets:
        """Reads every evaluation set; `seed` is the train task's.

        Raises:
            FileNotFoundError: Files are missing; names all of them.
            ValueError: As `Benchmark.start`, or two sets have the same name.
            ImportError: A package is missing.
        """
        members, train, held_out = self._members(), self.train, None
        start_train, train_statement = None, _whole_statement
        if isinstance(train, Benchmark):
            train = self._placed(train)
            start_train, train_statement = train.train_starter(seed), train.statement
        elif train is not None:
            started = train.start(seed)
            start_train, held_out = (lambda: started), None if self.only else started
        sets = {name: member.eval_problems() for name, member in members.items()}
        return EvaluationSets(
            self.name,
            sets,
            statements={name: [members[name].statement(one) for one in problems] for name, problems in sets.items()},
            start_train=start_train,
            train_statement=train_statement,
            contamination_ngram=self.contamination_ngram,
            held_out=held_out,
        )

    def _members(self) -> dict[str, Benchmark]:
        """Those that are evaluated on, each with its place; the train task's own set is first.

        Raises:
            FileNotFoundError: Files are missing; names all of them.
        """
        if self.path is not None and Path(self.path).is_file():
            raise FileNotFoundError(
                f"path={self.path} is one file: a suite takes a folder with a file for each member; for one benchmark "
                f"choose it alone, as task=gsm8k"
            )
        chosen = {name: member for name, member in self.members.items() if not self.only or name in self.only}
        if isinstance(self.train, Benchmark) and self.train.split and not self.only:
            chosen = {self.train.name: self.train} | chosen
        placed = {name: self._placed(member) for name, member in chosen.items()}
        missing = []
        for member in placed.values():
            try:
                member.eval_file()
            except FileNotFoundError as error:
                missing.append(str(error))
        if missing:
            raise FileNotFoundError(f"{'; '.join(missing)}. Put them there, or choose members by task.only")
        return placed

    def _placed(self, member: Benchmark) -> Benchmark:
        return member if member.path is not None or self.path is None else replace(member, path=self.path)

    def _languages(self) -> list[str]:
        tasks = [*self.members.values(), *([] if self.train is None else [self.train])]
        return sorted({task.tool_language for task in tasks if task.tool_language is not None})


def _whole_statement(problem: Problem) -> str:
    return problem.prompt[-1].content
