"""What may import what: the contracts of pyproject.toml, and what importing turnwise costs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"transformers", "vllm", "wandb", "math_verify", "sentence_transformers", "reasoning_gym", "ray"}

IMPORT_EVERY_MODULE = """
import importlib, pkgutil, sys
root = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(root.__path__, root.__name__ + "."):
    importlib.import_module(module.name)
print(*{module.partition(".")[0] for module in sys.modules})
"""


def run_python(*args: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs a fresh interpreter that finds packages in `path` first."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *args], env=environment, cwd=ROOT, capture_output=True, text=True)


def loaded_packages(package: str, path: Path) -> set[str]:
    """Top-level packages in memory after importing every module of `package`."""
    result = run_python("-c", IMPORT_EVERY_MODULE, package, path=path)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def check_contracts(source_root: Path) -> subprocess.CompletedProcess[str]:
    """Runs the project's import contracts on the `turnwise` that lies in `source_root`."""
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return run_python("-c", command, path=source_root)


@pytest.fixture(scope="module")
def source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("copy") / "src"
    return shutil.copytree(ROOT / "src", target, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))


def test_import_contracts_hold() -> None:
    result = check_contracts(ROOT / "src")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("place", "line", "contract"),
    [
        ("loss/planted.py", "import turnwise.reward", "Dependencies point one way"),
        ("types_planted.py", "import turnwise.types", "Dependencies point one way"),
        ("core/planted.py", "import turnwise.types", "core needs torch alone"),
        ("reward/planted.py", "import omegaconf", "Hydra and OmegaConf stay in config"),
    ],
)
def test_import_contracts_bite(source_copy: Path, place: str, line: str, contract: str) -> None:
    planted = source_copy / "turnwise" / place
    planted.write_text(line + "\n")
    try:
        result = check_contracts(source_copy)
    finally:
        planted.unlink()
    assert result.returncode == 1
    assert f"{contract} BROKEN" in result.stdout


def test_importing_turnwise_loads_nothing_heavy() -> None:
    assert loaded_packages("turnwise", path=ROOT / "src") & HEAVY == set()


def test_import_rule_bites(tmp_path: Path) -> None:
    (tmp_path / "wandb.py").touch()
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted/__init__.py").touch()
    (tmp_path / "planted/tracker.py").write_text("import wandb\n")
    assert loaded_packages("planted", path=tmp_path) & HEAVY == {"wandb"}
