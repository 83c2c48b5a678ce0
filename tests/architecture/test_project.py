"""Rules of the files around the source: Makefile, lock, presets, ignored paths. Each rule is shown to bite."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PRESET_GROUPS = ("algo", "experiment", "ablation", "debug")
PRESETS = [path for group in PRESET_GROUPS for path in sorted((ROOT / "conf" / group).rglob("*"))]
LOCKED_EXTRAS = ("dev", "lora", "reasoning-gym", "sweep", "ray")


def undocumented_targets(makefile: Path) -> set[str]:
    """Phony targets that `make help` does not explain."""
    phony = re.search(r"^\.PHONY:(.*)$", makefile.read_text(), flags=re.MULTILINE)
    page = subprocess.run(["make", "-f", makefile, "help"], capture_output=True, text=True, check=True).stdout
    explained = {line.split(maxsplit=1)[0] for line in page.splitlines() if len(line.split()) > 1}
    return set(phony[1].split() if phony else ()) - explained


def preset_complaints(text: str) -> list[str]:
    """What a preset holds besides values and `override` lines."""
    complaints = [] if text.startswith("# @package _global_\n") else ["does not begin with `# @package _global_`"]
    tree: dict[str, Any] = yaml.safe_load(text) or {}
    entries = [entry for entry in tree.get("defaults", []) if entry != "_self_"]
    overrides = [e for e in entries if isinstance(e, dict) and all(key.startswith("override /") for key in e)]
    complaints += [f"defaults entry {entry} is no override" for entry in entries if entry not in overrides]
    if "_target_" in text:
        complaints.append("names a class: that is an option's affair")
    return complaints


def wanted_packages(pyproject: str) -> list[Requirement]:
    """What pyproject.toml asks for, the locked extras included."""
    project = tomllib.loads(pyproject)["project"]
    lines = [*project["dependencies"], *(line for e in LOCKED_EXTRAS for line in project["optional-dependencies"][e])]
    return [Requirement(line) for line in lines]


def lock_complaints(lock: str, wanted: list[Requirement]) -> list[str]:
    """Lines that are not a plain pin, and requirements that no pin meets."""
    lines = [line for line in lock.splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    complaints = [f"not NAME==VERSION: {line}" for line in lines if not re.fullmatch(r"[\w.-]+==[\w.!]+", line)]
    for requirement in wanted:
        version = pins.get(canonicalize_name(requirement.name))
        if version is None or version not in requirement.specifier:
            complaints.append(f"{requirement}: locked is {version}")
    return complaints


def is_ignored(path: str) -> bool:
    return subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT).returncode == 0


def test_make_help_explains_every_target() -> None:
    assert undocumented_targets(ROOT / "Makefile") == set()


def test_make_alone_is_make_help() -> None:
    pages = [subprocess.run(["make", *goal], cwd=ROOT, capture_output=True, text=True) for goal in ([], ["help"])]
    assert pages[0].stdout == pages[1].stdout
    assert "demo" in pages[0].stdout


def test_help_rule_bites(tmp_path: Path) -> None:
    help_rule = re.search(r"^help:.*\n(?:\t.*\n)+", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert help_rule
    planted = tmp_path / "Makefile"
    planted.write_text(f".PHONY: help told untold\n{help_rule[0]}\ntold:  ## explained\n\ttrue\nuntold:\n\ttrue\n")
    assert undocumented_targets(planted) == {"untold"}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.relative_to(ROOT / "conf").as_posix())
def test_preset_is_flat_and_only_sets(path: Path) -> None:
    assert path.suffix == ".yaml", "presets lie flat in their group, one file each"
    assert path.parent.parent == ROOT / "conf", "presets lie flat in their group, one file each"
    assert preset_complaints(path.read_text()) == []


def test_there_are_presets() -> None:
    assert {"gtpo", "grpo"} <= {path.stem for path in PRESETS}


@pytest.mark.parametrize(
    "text",
    [
        "loss:\n  clip_low: 0.2\n",
        "# @package _global_\ndefaults:\n  - /loss: clipped\n",
        "# @package _global_\ndefaults:\n  - loss\n",
        "# @package _global_\nloss:\n  _target_: turnwise.loss.clipped.ClippedLoss\n",
    ],
)
def test_preset_rule_bites(text: str) -> None:
    assert preset_complaints(text)
    assert not preset_complaints(
        "# @package _global_\ndefaults:\n  - override /loss: clipped\n  - _self_\n\nloss:\n  clip_low: 0.2\n"
    )


def test_lock_pins_what_pyproject_asks_for() -> None:
    wanted = wanted_packages((ROOT / "pyproject.toml").read_text())
    assert lock_complaints((ROOT / "requirements.lock").read_text(), wanted) == []


@pytest.mark.parametrize(
    "lock",
    ["torch==2.12.0\n", "rich==15.0.0\n", "torch==2.13.0+cpu\n", "torch==2.13.0\nx @ file:///x\n", "torch>=2.13.0\n"],
)
def test_lock_rule_bites(lock: str) -> None:
    wanted = [Requirement("torch==2.13.0")]
    assert lock_complaints(lock, wanted)
    assert not lock_complaints("# words\ntorch==2.13.0\n", wanted)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
@pytest.mark.parametrize(
    "path",
    [
        *("runs/x/metrics.jsonl", "wandb/x", "outputs/x", "multirun/x", "src/__pycache__/x", "models/x/config.json"),
        *(".venv/x", ".venv-equivalence/x", ".venv-peer/x", ".venv-vllm/x"),
    ],
)
def test_what_runs_leave_is_ignored(path: str) -> None:
    assert is_ignored(path)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
@pytest.mark.parametrize("path", ["src/turnwise/runs/x.py", "experiments/x/README.md", "requirements.lock"])
def test_ignoring_stops_at_what_is_ours(path: str) -> None:
    assert not is_ignored(path)
