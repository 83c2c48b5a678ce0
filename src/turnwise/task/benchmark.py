"""The component behind `task=gsm8k` and its like: a published data set, from the hub or from files, one YAML each."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from turnwise.task.columns import Columns
from turnwise.task.evaluation_sets import EvaluationSets
from turnwise.task.layouts import Item, is_uniform, read_own, read_uniform
from turnwise.task.problem_list import ProblemList
from turnwise.task.rows import SUFFIXES, read_file, read_hub
from turnwise.types import Message, Problem

LOGGER = logging.getLogger(__name__)
SHOWN = 10
"""Rows that an error lists before it counts the rest."""


class Order(StrEnum):
    """What the problems of a set are ordered by."""

    rows = "rows"
    """As they are listed, so that the first 200 are those that everybody calls so."""
    content = "content"
    """By the digest of the statement: for sets that hub and file list differently."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set with a split to evaluate on, one to train on, or both.

    Rows come from the hub, or from `path` in either of two layouts, told apart by the first row: the data set's own
    columns, or uniform JSON lines with `id`, `problem`, `answer` and `source` (and `tests` and `entry_point` where
    the columns have them). Statements, answers and ids come out the same: a problem's id is a digest of its
    statement, so that what is drawn for it in an evaluation does not depend on where its row was found.
    """

    name: str
    """What its figures and the ids of its problems are called, and its files."""
    repo: str = ""
    """Its repository on the hub, or the path of a local copy of that."""
    config: str = ""
    """The repository's configuration; empty: its default."""
    revision: str = ""
    """Commit, branch or tag of the repository; empty: the latest."""
    split: str = ""
    """The split that is evaluated on, `train+test` for both; empty: none."""
    num_rows: int = 0
    """How many rows it is known to have: another number is warned about; 0: unknown."""
    train_split: str = ""
    """The split that is trained on; empty: none."""
    num_train_rows: int = 0
    """How many rows that is known to have; 0: unknown."""
    columns: Columns = field(default_factory=Columns)
    """Where question and answer stand."""
    instruction: str = ""
    """Placed below every question: in which form the answer is wanted."""
    order: Order = Order.rows
    """What the evaluation set is ordered by, which decides which problems are the first."""
    path: str | None = None
    """A file of the evaluated split, or a folder with `NAME_SPLIT.jsonl` or `NAME.jsonl`; None: the hub."""
    files: list[str] = field(default_factory=list)
    """What the file of the evaluated split may be called besides in such a folder, without its suffix."""
    train_path: str | None = None
    """A file of the train split; None: in the folder `path`, or the hub."""
    leave_out: list[str] = field(default_factory=list)
    """Ids of problems that are not used, such as one whose answer is broken; a warning counts them."""
    contamination_ngram: int = 13
    """Train problems that share so many words in a row with an evaluated one are removed; 0: only equal ones."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\s/]+", self.name):
            raise ValueError(f"name={self.name!r}: expected a name without spaces and slashes")
        if not self.split and not self.train_split:
            raise ValueError(f"split='' train_split='': expected at least one for {self.name}")
        for name in ("num_rows", "num_train_rows", "contamination_ngram"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected >= 0")
        if self.path is None and not self.repo:
            raise ValueError(f"path=null repo='': expected a path or a repository for {self.name}")

    @property
    def tool_language(self) -> str | None:
        """Where tests decide, what they are written in; else any tool may serve."""
        return "python" if self.columns.tests else None

    @property
    def has_train(self) -> bool:
        """Whether there is anything to train on."""
        return bool(self.train_split)

    def start(self, seed: int) -> EvaluationSets:
        """Reads the evaluated split; the other one is read when its first batch is asked for, which `seed` orders.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A row lacks a field or has an answer that cannot be read; names the place. Or the hub refuses.
            ImportError: A package is missing.
        """
        sets = {self.name: self.eval_problems()} if self.split else {}
        return EvaluationSets(
            self.name,
            sets,
            statements={name: list(map(self.statement, problems)) for name, problems in sets.items()},
            start_train=self.train_starter(seed),
            train_statement=self.statement,
            contamination_ngram=self.contamination_ngram,
        )

    def train_starter(self, seed: int) -> Callable[[], ProblemList] | None:
        """What reads the train split and orders it by `seed`; None where there is none."""
        if not self.train_split:
            return None
        return lambda: ProblemList(self.name, self._train_problems(), [], seed)

    def eval_problems(self) -> list[Problem]:
        """Every problem of the evaluated split, in order.

        Raises:
            FileNotFoundError, ValueError, ImportError: As `start`.
        """
        problems = self._problems(self.split, self.num_rows, self.eval_file())
        return sorted(problems, key=lambda problem: problem.id) if self.order is Order.content else problems

    def eval_file(self) -> Path | None:
        """The file of the evaluated split; None where it comes from the hub.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return None if self.path is None else self._file(Path(self.path), self.split)

    def statement(self, problem: Problem) -> str:
        """A problem's statement without the instruction, which all have in common."""
        return problem.prompt[-1].content.removesuffix(self._suffix)

    @property
    def _suffix(self) -> str:
        return f"\n\n{self.instruction.strip()}" if self.instruction.strip() else ""

    def _train_problems(self) -> list[Problem]:
        if self.train_path is not None:
            path = self._file(Path(self.train_path), self.train_split)
        elif self.path is not None and Path(self.path).is_file() and self.split:
            raise FileNotFoundError(
                f"path={self.path} is the file of split {self.split}: to train on {self.name}, give train_path, or a "
                f"folder with both files as path"
            )
        else:
            path = None if self.path is None else self._file(Path(self.path), self.train_split)
        return self._problems(self.train_split, self.num_train_rows, path)

    def _file(self, path: Path, split: str) -> Path:
        """The file itself, or the one in the folder `path` that is named after the benchmark."""
        if not path.is_dir():
            if not path.is_file():
                raise FileNotFoundError(f"{self.name}: {str(path)!r}: no such file or folder")
            return path
        stems = [f"{self.name}_{split}", *(self.files if split == self.split else []), self.name]
        names = [f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]
        for name in names:
            if (path / name).is_file():
                return path / name
        tried = " or ".join(f"{stem}.jsonl" for stem in stems)
        raise FileNotFoundError(f"{self.name}: {path} holds no {tried} (or .json, .parquet)")

    def _problems(self, split: str, num_expected: int, path: Path | None) -> list[Problem]:
        if path is None:
            rows = read_hub(self.repo, self.config, split, self.revision, self.columns.names)
        else:
            rows = read_file(path)
        where = f"{self.repo}, split {split}" if path is None else str(path)
        if not rows:
            raise ValueError(f"{self.name}: {where} holds no problem")
        if num_expected and len(rows) != num_expected:
            LOGGER.warning("%s: %s has %d rows, expected %d", self.name, where, len(rows), num_expected)
        read = read_uniform if path is not None and is_uniform(rows[0], self.columns) else read_own
        return self._made(read(rows, self.columns, self.name), where)

    def _made(self, items: Sequence[Item], where: str) -> list[Problem]:
        """The problems of all rows but those of `leave_out`; unreadable answers cost an error that lists them."""
        problems: list[Problem] = []
        unreadable: list[str] = []
        seen: Counter[str] = Counter()
        ids: set[str] = set()
        for item in items:
            digest = hashlib.blake2b(" ".join(item.statement.split()).encode(), digest_size=5).hexdigest()
            seen[digest] += 1
            id_ = f"{self.name}/{digest}" + (f"#{seen[digest]}" if seen[digest] > 1 else "")
            ids.add(id_)
            if id_ in self.leave_out:
                continue
            if item.error:
                unreadable.append(f"{item.error} (id {id_})")
                continue
            problems.append(
                Problem(
                    id=id_,
                    prompt=(Message(role="user", content=item.statement + self._suffix),),
                    answer=item.answer,
                    source=item.source,
                    tests=item.tests,
                    entry_point=item.entry_point,
                )
            )
        if unknown := [id_ for id_ in self.leave_out if id_ not in ids]:
            LOGGER.warning("%s: no row of %s has the id %s of leave_out", self.name, where, ", ".join(unknown))
        if unreadable:
            more = f"; and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
            raise ValueError(
                f"{self.name}: {len(unreadable)} of {len(items)} answers cannot be read "
                f"(columns.answer_rule={self.columns.answer_rule}): {'; '.join(unreadable[:SHOWN])}{more}. "
                f"Mend them, or name their ids in leave_out"
            )
        if repeats := seen.total() - len(seen):
            LOGGER.warning("%s: %d rows of %s repeat an earlier statement; they are kept", self.name, repeats, where)
        if len(problems) < len(items):
            LOGGER.warning("%s: left out %d of %d rows of %s", self.name, len(items) - len(problems), len(items), where)
        if not problems:
            raise ValueError(f"{self.name}: leave_out leaves nothing of {where}")
        return problems
