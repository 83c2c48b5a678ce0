"""The task `jsonl`: problems from a file of JSON lines."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from turnwise.task.columns import text_of
from turnwise.task.contamination import Contamination
from turnwise.task.problem_list import ProblemList
from turnwise.task.rows import read_file
from turnwise.types import Message, Problem

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Jsonl:
    """Problems from JSON lines with the text fields `id`, `problem`, `answer` and, if given, `source`.

    Without `eval_path` the text of a problem decides its split, so that equal problems never land on both sides
    and no seed moves one across. With `eval_path` the two files are the splits, and problems of the train file
    that also stand in the eval file are dropped, with a warning that counts them.
    """

    tool_language: ClassVar[None] = None
    """The file does not say which tool its problems are for."""
    has_train: ClassVar[bool] = True
    """It can be trained on."""

    path: str
    """The file; the train split's alone when `eval_path` is given."""
    eval_path: str | None = None
    """The file of the eval split; None takes `eval_fraction` of `path`."""
    eval_fraction: float = 0.1
    """Share of the problems of `path` in the eval split; 1 evaluates on the whole file. Unused with `eval_path`."""
    contamination_ngram: int = 13
    """Words in a row that a train problem may not share with one of `eval_path`; 0: only equal ones are dropped."""

    def __post_init__(self) -> None:
        if not 0 < self.eval_fraction <= 1:
            raise ValueError(f"task.eval_fraction={self.eval_fraction}: expected a number in (0, 1]")
        if self.contamination_ngram < 0:
            raise ValueError(f"task.contamination_ngram={self.contamination_ngram}: expected >= 0")

    def start(self, seed: int) -> ProblemList:
        """Reads the files; `seed` orders the train split. The task is named after the file's stem.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is empty or a line is malformed; names the file and the line.
        """
        problems = read_problems(Path(self.path))
        if self.eval_path is None:
            held_out = [problem for problem in problems if _hash(problem) < self.eval_fraction]
        else:
            held_out = read_problems(Path(self.eval_path))
        name = Path(self.eval_path or self.path).stem
        if repeats := len(held_out) - len(set(map(_statement, held_out))):
            LOGGER.warning("task %s: %d held-out problems repeat an earlier statement; they are kept", name, repeats)
        # Within one file only equal problems are twins: its problems may well be of one mould.
        contamination = Contamination(
            {name: map(_statement, held_out)}, 0 if self.eval_path is None else self.contamination_ngram
        )
        train = [problem for problem in problems if contamination.known_from(_statement(problem)) is None]
        removed = {}
        if self.eval_path is not None and len(train) < len(problems):
            removed = {name: len(problems) - len(train)}
            LOGGER.warning("dropped %d of %s: also in %s", removed[name], self.path, self.eval_path)
        return ProblemList(name, train, sorted(held_out, key=_hash), seed, removed)


def read_problems(path: Path) -> list[Problem]:
    """Every problem of a file, in order; blank lines are skipped.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file holds no problem, a line is malformed, or two problems have the same id.
    """
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for row in read_file(path):
        problem = Problem(
            id=text_of(row, "id"),
            prompt=(Message(role="user", content=text_of(row, "problem")),),
            answer=text_of(row, "answer"),
            source=text_of(row, "source") if "source" in row.values else path.stem,
        )
        if problem.id in places:
            raise ValueError(f"{row.place}: id {problem.id!r} is already that of {places[problem.id]}")
        places[problem.id] = row.place
        problems.append(problem)
    return problems


def _statement(problem: Problem) -> str:
    """The text that tells problems apart; white space does not."""
    return " ".join(problem.prompt[-1].content.split())


def _hash(problem: Problem) -> float:
    """A stable number in [0, 1) from the statement alone."""
    digest = hashlib.blake2b(_statement(problem).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
