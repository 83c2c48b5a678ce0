"""The task `jsonl`: problems from a file of JSON lines."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from turnwise.task.problem_list import ProblemList
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

    def __post_init__(self) -> None:
        if not 0 < self.eval_fraction <= 1:
            raise ValueError(f"task.eval_fraction={self.eval_fraction}: expected a number in (0, 1]")

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
        statements = {_statement(problem) for problem in held_out}
        train = [problem for problem in problems if _statement(problem) not in statements]
        if self.eval_path is not None and len(train) < len(problems):
            LOGGER.warning("dropped %d of %s: also in %s", len(problems) - len(train), self.path, self.eval_path)
        name = Path(self.eval_path or self.path).stem
        return ProblemList(name, train, sorted(held_out, key=_hash), seed)


def read_problems(path: Path) -> list[Problem]:
    """Every problem of a file, in order; blank lines are skipped.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file holds no problem, a line is malformed, or two problems have the same id.
    """
    if not path.is_file():
        raise FileNotFoundError(f"task file {str(path)!r}: no such file")
    problems: list[Problem] = []
    first_lines: dict[str, int] = {}
    with path.open("rb") as lines:
        for line_number, raw in enumerate(lines, start=1):
            where = f"{path}:{line_number}"
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from error
            if not line.strip():
                continue
            problem = _parse(line, where)
            if problem.id in first_lines:
                raise ValueError(f"{where}: id {problem.id!r} is already that of line {first_lines[problem.id]}")
            first_lines[problem.id] = line_number
            problems.append(problem)
    if not problems:
        raise ValueError(f"{path}: holds no problem")
    return problems


def _parse(line: str, where: str) -> Problem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, got {type(row).__name__}")
    return Problem(
        id=_text(row, "id", where),
        prompt=(Message(role="user", content=_text(row, "problem", where)),),
        answer=_text(row, "answer", where),
        source=_text(row, "source", where) if "source" in row else Path(where.rpartition(":")[0]).stem,
    )


def _text(row: dict[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise ValueError(f"{where}: field {field!r} is missing; found {', '.join(row) or 'none'}")
    value = row[field]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: field {field!r} is {json.dumps(value)}, expected a text that is not blank")
    return value


def _statement(problem: Problem) -> str:
    """The text that tells problems apart; white space does not."""
    return " ".join(problem.prompt[-1].content.split())


def _hash(problem: Problem) -> float:
    """A stable number in [0, 1) from the statement alone."""
    digest = hashlib.blake2b(_statement(problem).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
