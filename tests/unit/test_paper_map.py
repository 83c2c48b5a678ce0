"""docs/PAPER.md is a map of the code: what it points at exists, and no component is missing from it."""

import ast
import re
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAPER = (ROOT / "docs" / "PAPER.md").read_text(encoding="utf-8")
PLACES = re.findall(r"`(src/[\w/]+\.py):([\w.]+)`", PAPER)
COMPONENT_FOLDERS = ("advantage", "loss", "reward")


def symbols(source: str) -> set[str]:
    """Names that a module defines at top level, and the members of its classes as `Class.member`."""

    def names(body: list[ast.stmt]) -> set[str]:
        found = set()
        for node in body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                    found.add(name)
        return found

    module = ast.parse(source)
    members = {f"{node.name}.{m}" for node in module.body if isinstance(node, ast.ClassDef) for m in names(node.body)}
    return names(module.body) | members


def components(source: str) -> set[str]:
    """Public classes that can be called: the parts that a configuration chooses."""
    found = symbols(source)
    return {name.removesuffix(".__call__") for name in found if name.endswith(".__call__")}


def rows_with_a_place() -> list[list[str]]:
    """Cells of the rows of every table that has a column `where`."""
    tables = [list(lines) for is_table, lines in groupby(PAPER.splitlines(), lambda x: x.startswith("|")) if is_table]
    return [
        [cell.strip() for cell in row.strip("|").split("|")]
        for header, _, *rows in tables
        for row in rows
        if "| where |" in header
    ]


@pytest.mark.parametrize(("file", "symbol"), PLACES)
def test_every_symbol_exists(file: str, symbol: str):
    path = ROOT / file
    assert path.is_file(), f"docs/PAPER.md names {file}, which does not exist"
    assert symbol in symbols(path.read_text(encoding="utf-8")), (
        f"docs/PAPER.md names {file}:{symbol}, not defined there"
    )


@pytest.mark.parametrize("row", rows_with_a_place(), ids=lambda row: row[0])
def test_every_statement_has_one_place_and_its_provenance(row: list[str]):
    assert re.fullmatch(r"`src/[\w/]+\.py:[\w.]+`", row[1]), f"no `file:symbol` in the second column: {row}"
    assert row[2], f"no mark in the third column: {row}"
    assert re.fullmatch(r"((after )?\d{4}\.\d{5})|see above|", row[3]), f"no arXiv id in the last column: {row}"


@pytest.mark.parametrize("folder", COMPONENT_FOLDERS)
def test_every_component_is_on_the_map(folder: str):
    mapped = {(file, symbol) for file, symbol in PLACES}
    for path in sorted((ROOT / "src" / "turnwise" / folder).rglob("*.py")):
        for name in components(path.read_text(encoding="utf-8")):
            place = (path.relative_to(ROOT).as_posix(), name)
            assert place in mapped, f"docs/PAPER.md does not say what {place[0]}:{name} implements"


def test_the_three_papers_called_gtpo_are_told_apart():
    assert "2511.14846" in PAPER.partition("## 1.")[0]
    assert "2508.03772" in PAPER
    assert "2508.04349" in PAPER


def test_the_reader_of_symbols_sees_what_is_there_and_nothing_else():
    source = "X: int = 1\nY = 2\nclass A:\n    field: int = 0\n    member = 1\n    def method(self): ...\n"
    source += "    def __call__(self): ...\ndef function():\n    inner = 1\n"
    assert symbols(source) == {"X", "Y", "A", "A.field", "A.member", "A.method", "A.__call__", "function"}
    assert components(source) == {"A"}
    assert len(PLACES) == len(rows_with_a_place()) > 30
