"""Rules that every file of src/ keeps: each is a function, shown to bite on a bad sample."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
OUTSIDE_CONFIG = [path for path in SOURCES if "config" not in path.parts]
CORE = sorted((ROOT / "src/turnwise/core").glob("*.py"))

MAX_LINES = 300
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "base"}
SELECTOR_NAMES = {"algo", "algorithm", "name", "kind", "type", "mode", "option", "variant", "backend", "label"}
NOT_A_COMPONENT = {"device.type", "os.name", "field.name"}
COMPONENT_GROUPS = ("algo", "advantage", "loss", "reward", "env", "model", "engine", "task", "tracker")
OPTION_NAMES = {path.stem for group in COMPONENT_GROUPS for path in (ROOT / "conf" / group).rglob("*.yaml")}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def too_long(source: str) -> bool:
    return len(source.splitlines()) > MAX_LINES


def is_vague(path: Path) -> bool:
    return bool(VAGUE_NAMES & {path.stem, *path.parent.parts})


def holds_code(init_source: str) -> bool:
    """Whether an `__init__.py` holds more than a docstring."""
    body = ast.parse(init_source).body
    return len(body) > (ast.get_docstring(ast.parse(init_source)) is not None)


def unfinished(source: str) -> list[str]:
    return re.findall(r"\b(?:TODO|FIXME|XXX|HACK|NotImplementedError|NotImplemented)\b", source)


def string_constants(node: ast.expr) -> set[str]:
    """The strings that `node` spells out: a constant, or a tuple, list or set of them."""
    items = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)}


def selector(node: ast.expr) -> str:
    """The trailing name of an expression, with its owner: `self.loss.kind` -> `loss.kind`, `algo` -> `algo`."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=owner, attr=name):
            return f"{selector(owner).rpartition('.')[2]}.{name}"
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return f"[].{name}"
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]):
            return f"[].{name}"
    return ""


def compared_pairs(tree: ast.AST) -> Iterator[tuple[int, list[ast.expr]]]:
    """Line and operands of every comparison, `match` on constants included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield node.lineno, [node.left, *node.comparators]
        if isinstance(node, ast.Match):
            patterns = [part for case in node.cases for part in ast.walk(case.pattern)]
            yield node.lineno, [node.subject, *(p.value for p in patterns if isinstance(p, ast.MatchValue))]


def name_dispatch(source: str, option_names: set[str] = OPTION_NAMES) -> list[str]:
    """Comparisons of a component's name with a string: `if algo == "gtpo"` and its disguises."""
    complaints = []
    for line, operands in compared_pairs(ast.parse(source)):
        strings = set().union(*map(string_constants, operands))
        selectors = {selector(operand) for operand in operands} - NOT_A_COMPONENT
        chosen = {name for name in selectors if name.rpartition(".")[2] in SELECTOR_NAMES}
        if strings and (chosen or strings & option_names):
            complaints.append(f"line {line}: {sorted(chosen)} against {sorted(strings)}")
    return complaints


def foreign_imports(source: str, allowed: set[str]) -> list[str]:
    """Imports, at any depth, of what is neither the standard library nor `allowed`."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append("." * node.level + (node.module or ""))
    return [
        module
        for module in modules
        if module.partition(".")[0] not in sys.stdlib_module_names
        and not any(module == name or module.startswith(f"{name}.") for name in allowed)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_file_keeps_the_house_rules(path: Path) -> None:
    source = path.read_text()
    assert not too_long(source), f"{relative(path)} is over {MAX_LINES} lines: split it by purpose"
    assert not is_vague(path.relative_to(ROOT)), f"{relative(path)}: name it after what it holds"
    assert unfinished(source) == []
    if path.name == "__init__.py":
        assert not holds_code(source), f"{relative(path)} must be empty or a docstring"


@pytest.mark.parametrize("path", OUTSIDE_CONFIG, ids=relative)
def test_nothing_outside_config_compares_a_components_name(path: Path) -> None:
    assert name_dispatch(path.read_text()) == []


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_core_imports_torch_alone(path: Path) -> None:
    assert foreign_imports(path.read_text(), {"torch", "turnwise.core"}) == []


def test_there_is_something_to_check() -> None:
    assert {"types.py", "protocols.py", "trainer.py", "main.py"} <= {path.name for path in SOURCES}
    assert {path.name for path in CORE} > {"__init__.py"}
    assert {"gtpo", "grpo"} <= OPTION_NAMES


def test_length_rule_bites() -> None:
    assert too_long("x = 1\n" * 301)
    assert not too_long("x = 1\n" * 300)


@pytest.mark.parametrize("name", ["src/turnwise/utils.py", "src/turnwise/reward/base.py", "src/common/x.py"])
def test_name_rule_bites(name: str) -> None:
    assert is_vague(Path(name))
    assert not is_vague(Path("src/turnwise/database.py"))


@pytest.mark.parametrize("source", ["import torch\n", '"""Words."""\nx = 1\n', "from turnwise import types\n"])
def test_init_rule_bites(source: str) -> None:
    assert holds_code(source)
    assert not holds_code('"""Words."""\n')
    assert not holds_code("")


@pytest.mark.parametrize("source", ["# TODO later\n", "raise NotImplementedError\n", "x = 1  # FIXME: wrong\n"])
def test_unfinished_rule_bites(source: str) -> None:
    assert unfinished(source)
    assert not unfinished("todos = 1\n")


@pytest.mark.parametrize(
    "source",
    [
        'if algo == "x": pass',
        'if "x" != self.loss.kind: pass',
        'y = 1 if config["mode"] == "x" else 2',
        'y = config.get("name", "") == "x"',
        'if type in ("x", "y"): pass',
        'match reward.name:\n    case "x" | "y": pass',
        'if chosen == "gtpo": pass',
        'if chosen in {"gtpo", "other"}: pass',
    ],
)
def test_dispatch_rule_bites(source: str) -> None:
    assert name_dispatch(source, {"gtpo"})


@pytest.mark.parametrize(
    "source",
    [
        'if device.type == "cuda": pass',
        "if self.pool is Pool.group: pass",
        'if message.role == "user": pass',
        "if self.name == other.name: pass",
        'name = "gtpo"',
    ],
)
def test_dispatch_rule_lets_the_rest_pass(source: str) -> None:
    assert name_dispatch(source, {"gtpo"}) == []


@pytest.mark.parametrize(
    "source", ["import numpy", "from turnwise.types import Turn", "def f():\n    import torchvision"]
)
def test_core_rule_bites(source: str) -> None:
    assert foreign_imports(source, {"torch", "turnwise.core"})
    assert not foreign_imports(
        "import math\nfrom torch import Tensor\nfrom turnwise.core.kl import k3", {"torch", "turnwise.core"}
    )
