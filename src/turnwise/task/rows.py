"""Rows of a data set, from a file or from the Hugging Face hub, each with its place for error messages."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

EXTRA = "pip install 'turnwise[hub]'"
SUFFIXES = (".jsonl", ".json", ".parquet")


class Row(NamedTuple):
    """One row as it was found: `place` says where, for a person."""

    place: str
    values: Mapping[str, Any]


def read_file(path: Path) -> list[Row]:
    """Every row of a file of JSON lines, of a JSON list or of a parquet file, by its suffix; blank lines are skipped.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file holds no row, is not what its suffix says, or a row is not an object.
        ImportError: A parquet file, and pyarrow is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"task file {str(path)!r}: no such file")
    readers = {".json": _json_rows, ".parquet": _parquet_rows}
    rows = list(readers.get(path.suffix, _line_rows)(path))
    if not rows:
        raise ValueError(f"{path}: holds no problem")
    return rows


def read_hub(repo: str, config: str, split: str, revision: str, columns: Sequence[str]) -> list[Row]:
    """The rows of one split of a data set of the hub, or of a folder laid out like one.

    Args:
        repo: The name of its repository, or the path of a local copy.
        config: Its configuration; empty: the default.
        split: As `datasets.load_dataset` takes it, such as `test` or `train+test`.
        revision: A commit, branch or tag; empty: the latest.
        columns: Those that are read; a column that is missing is the rows' own affair.

    Raises:
        ImportError: The package `datasets` is not installed.
        ValueError: The data set cannot be had, or has no such configuration or split.
    """
    where = f"{repo}{f' ({config})' if config else ''}, split {split}"
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise ImportError(f"{where}: the hub needs datasets: {EXTRA}; or give files by task.path") from error
    try:
        table = datasets.load_dataset(repo, config or None, split=split, revision=revision or None)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{where}: cannot be loaded: {reason}. Without the hub give its files by task.path; a gated data set wants "
            f"its terms accepted on the hub and HF_TOKEN set"
        ) from error
    wanted = [name for name in table.column_names if name in columns]
    if wanted:
        table = table.select_columns(wanted)  # decodes no picture that nobody asked for
    return [Row(f"{where}, row {number}", values) for number, values in enumerate(table.to_list())]


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and object of every line of a file that is not blank.

    Raises:
        ValueError: A line is not UTF-8, not JSON or not an object; file and line are named.
    """
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from error
            if line.strip():
                yield number, _object(_parse(line, where), where)


def _line_rows(path: Path) -> Iterator[Row]:
    return (Row(f"{path}:{number}", row) for number, row in json_lines(path))


def _json_rows(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    rows = _parse(text, str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of objects, got {type(rows).__name__}; name JSON lines .jsonl")
    for number, row in enumerate(rows):
        yield Row(f"{path}, row {number}", _object(row, f"{path}, row {number}"))


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError(f"{path}: a parquet file needs the package pyarrow: {EXTRA}") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except ArrowInvalid as error:
        raise ValueError(f"{path}: not a parquet file: {error}") from error
    for number, row in enumerate(rows):
        yield Row(f"{path}, row {number}", row)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise ValueError(f"{where}: not JSON ({error.msg} at {place})") from error
    except RecursionError:
        raise ValueError(f"{where}: JSON that is nested too deeply") from None


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, got {type(row).__name__}")
    return row
