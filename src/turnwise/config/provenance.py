"""What `config.json` of a run folder holds: enough to say how the run was made, and to tell two runs apart."""

import json
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from turnwise.checkpoint import RECORD
from turnwise.config.errors import ConfigError
from turnwise.config.options import CONF_DIR
from turnwise.config.parts import Components
from turnwise.config.threads import num_threads
from turnwise.manifest import is_as_written
from turnwise.tracker.atomic import write_atomically
from turnwise.trainer_settings import Device
from turnwise.types import Isolation

CONFIG_FILE = "config.json"
_PACKAGES = ("torch", "transformers", "hydra-core", "omegaconf")
_MAY_DIFFER = ("trainer.num_steps", "tracker", "health")
"""Keys in which a run may go on with another value: its length, where its figures go besides, when it is too ill."""


def describe_run(
    components: Components, *, choices: Mapping[str, str | None], overrides: Sequence[str]
) -> dict[str, Any]:
    """The record of a run that starts here for the first time; `write_config` continues an earlier one.

    Args:
        components: What runs, with its resolved configuration and label.
        choices: The option chosen in each config group.
        overrides: The command line's overrides.
    """
    start = {
        "overrides": list(overrides),
        "git": _git_state(CONF_DIR.parent),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "device": _device(components.trainer.device, components.model.num_threads),
    }
    return {
        "label": components.label,
        "choices": {group: option for group, option in choices.items() if not group.startswith("hydra/")},
        "config": dict(components.config),
        **start,
        "starts": [start],
    }


def check_same_run(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Refuses to mix two runs in one folder; an absent or empty folder and the same run's own are fine.

    Raises:
        ConfigError: `run_dir` or a checkpoint in it is of a run with another configuration (the first differing keys
            are named with both values); or it holds an unreadable record, or files that are no run's.
    """
    path = run_dir / CONFIG_FILE
    if not path.exists():
        if run_dir.exists() and any(run_dir.iterdir()):
            raise ConfigError(f"hydra.run.dir={run_dir} is not empty and holds no {CONFIG_FILE}: name another folder")
        return
    _check_config(path, record, f"hydra.run.dir={run_dir} belongs to another run")
    for step in sorted((run_dir / "checkpoints").glob(f"step_*/{RECORD}")):
        if is_as_written(step.parent, RECORD):  # a damaged checkpoint is no other run's, and is passed over later
            _check_config(step, record, f"the checkpoint {step.parent} belongs to another run")


def _check_config(path: Path, record: Mapping[str, Any], refusal: str) -> None:
    try:
        there = dict(leaves(json.loads(path.read_text(encoding="utf-8"))["config"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not the record of a run: {error!r}") from error
    here = dict(leaves(json.loads(json.dumps(record["config"]))))
    keys = [key for key in here | there if not any(key == free or key.startswith(f"{free}.") for free in _MAY_DIFFER)]
    differing = [key for key in keys if here.get(key) != there.get(key)]
    if differing:
        pairs = [f"{key}={there.get(key)} there, {here.get(key)} here" for key in differing[:3]]
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ConfigError(f"{refusal}: {'; '.join(pairs)}{more}")


def write_config(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Writes the record to `run_dir`, whole or not at all.

    The record of a run that goes on stays that of its first start, but for the configuration, which is the present
    one, and for `starts`, which every start adds to.
    """
    path = run_dir / CONFIG_FILE
    if path.exists():
        first = json.loads(path.read_text(encoding="utf-8"))
        starts = [*first.get("starts", []), *record["starts"]]
        record = {**first, "config": record["config"], "starts": starts}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def record_isolation(run_dir: Path, isolation: Isolation | None) -> None:
    """Adds to the newest start how the programs of the policy were kept apart."""
    _record(run_dir, "isolation", None if isolation is None else isolation.name)


def record_removed(run_dir: Path, removed: Mapping[str, int]) -> None:
    """Adds to the newest start how many train problems were removed that an evaluation set knows, by its name."""
    _record(run_dir, "removed_train_problems", dict(removed))


def _record(run_dir: Path, name: str, value: Any) -> None:
    path = run_dir / CONFIG_FILE
    record = json.loads(path.read_text(encoding="utf-8"))
    record["starts"][-1][name] = value
    write_atomically(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in `tree` that is not a mapping."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Revision and dirty flag of the checkout at `folder`; None without git or outside a checkout."""
    revision, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    return None if revision is None or changes is None else {"revision": revision, "is_dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(setting: Device, wanted_threads: int) -> dict[str, Any]:
    """The device that `trainer.device` comes to on this machine."""
    if setting is Device.cpu or not torch.cuda.is_available():
        return {"type": "cpu", "name": platform.machine(), "num_threads": num_threads(wanted_threads)}
    return {"type": "cuda", "name": torch.cuda.get_device_name(), "count": torch.cuda.device_count()}
