"""Checkpoints that are either whole or not there, and from which a run goes on exactly."""

import json
import os
import pickle
import platform
import random
import shutil
from collections.abc import Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from turnwise.model.sharding import is_dealt_out, read_parts, write_parts
from turnwise.protocols import Policy
from turnwise.ranks import ALONE, Ranks
from turnwise.types import TokenBatch

_PREFIX = "step_"
_TEMPORARY = ".tmp-"
_WHOLE, _PARTS = "optimiser.pt", "optimiser"
"""The optimiser's state of one process, and that of a policy that is dealt out."""


class Cursor(Protocol):
    """Where a run stands in what it learns from, such as a `Task`."""

    def state_dict(self) -> dict[str, Any]:
        """The place, JSON-serialisable."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to it."""
        ...


def save(folder: Path, step: int, *, policy: Policy, task: Cursor, keep: int, ranks: Ranks = ALONE) -> Path:
    """Writes `folder`/step_<step>, points `folder`/last at it and removes what is no longer kept.

    It holds the weights in the Hugging Face layout, the optimiser's state (`optimiser.pt`, or a folder `optimiser` with
    the parts of all ranks, written by torch.distributed.checkpoint), `rng.pt` (Python, NumPy, torch, every CUDA
    device) and `state.json` (step, task cursor, versions, and every other file with its size). All of it is written
    under a temporary name, forced to disk, then renamed: a kill or a full disk leaves the earlier checkpoints as they
    were.

    Args:
        folder: The run's checkpoints; made when missing.
        step: The step that a resumed run begins with, which is the number of finished steps.
        policy: Gives weights and optimiser state.
        task: Gives the cursor.
        keep: Newest checkpoints to keep; 0 keeps all. The one that `last` names is always kept.
        ranks: Who trains the policy: all of them call this, and see the same folder.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: It cannot be written.
    """
    if step < 0 or keep < 0:
        raise ValueError(f"step={step}, keep={keep}: expected both >= 0")
    target = folder / f"{_PREFIX}{step}"
    draft = folder / f"{_TEMPORARY}{target.name}"
    is_there = (folder / "last").resolve() == target.resolve() and _damage(target) is None
    if ranks.gather(is_there)[0]:
        return target  # a run that was resumed here and stopped before its next step
    try:
        if ranks.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            draft.mkdir()
        ranks.wait()
        policy.save_pretrained(draft)
        _write_optimiser(policy.state_dict(), draft)
        ranks.wait()
        if ranks.is_first:
            _dump(_rng_state(), draft / "rng.pt")
            _write_state(draft, step, task)
            for path in [*draft.rglob("*"), draft]:
                _force_to_disk(path)
            if target.exists():
                target.rename(folder / f"{_TEMPORARY}replaced-{target.name}")
            draft.rename(target)
            _point_last(folder, target)
    finally:
        if ranks.is_first:
            _remove_leftovers(folder)
    if ranks.is_first:
        _prune(folder, keep)
    ranks.wait()
    return target


def latest(folder: Path) -> Path | None:
    """The checkpoint to resume from: the one that `last` names, else the newest; None without a whole one."""
    candidates = [(folder / "last").resolve(), *reversed(_checkpoints(folder))]
    return next((path for path in candidates if _damage(path) is None), None)


def restore(path: Path, policy: Policy, task: Cursor) -> int:
    """Puts weights, optimiser, task cursor and every random generator back as `save` found them.

    Returns:
        The step to begin with.

    Raises:
        ValueError: The checkpoint is torn or not one at all; the message names the file.
    """
    if (damage := _damage(path)) is not None:
        raise ValueError(f"checkpoint {path}: {damage}")
    state = json.loads((path / "state.json").read_text())
    optimiser, rng = _read_optimiser(policy.state_dict(), path), _load(path / "rng.pt")
    policy.load_pretrained(path)
    policy.load_state_dict(optimiser)
    task.load_state_dict(state["task"])
    _set_rng_state(rng)
    return state["step"]


def save_batch(batch: TokenBatch, path: Path) -> None:
    """Writes the tensors and counts of a batch; `load_batch` reads them."""
    _dump({field.name: getattr(batch.to(torch.device("cpu")), field.name) for field in fields(batch)}, path)


def load_batch(path: Path) -> TokenBatch:
    """The batch that `save_batch` wrote.

    Raises:
        ValueError: The file is torn or no batch.
    """
    return TokenBatch(**_load(path))


def _write_optimiser(state: dict[str, Any], folder: Path) -> None:
    """A file; or a folder to which every rank adds its parts, and which any number of ranks can read."""
    if is_dealt_out(state):
        write_parts(state, folder / _PARTS)
    else:
        _dump(state, folder / _WHOLE)


def _read_optimiser(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state that was written, in the form of `state`, the policy's own of this moment."""
    if is_dealt_out(state) != (folder / _PARTS).is_dir():
        wanted = "several processes (trainer=fsdp)" if is_dealt_out(state) else "one process (trainer=single)"
        raise ValueError(f"checkpoint {folder} was not written by {wanted}, as this run is")
    if is_dealt_out(state):
        read_parts(state, folder / _PARTS)
        return state
    return _load(folder / _WHOLE)


def _write_state(draft: Path, step: int, task: Cursor) -> None:
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "numpy")}
    state = {
        "step": step,
        "task": task.state_dict(),
        "versions": {"python": platform.python_version(), **packages},
        "files": {str(p.relative_to(draft)): p.stat().st_size for p in sorted(draft.rglob("*")) if p.is_file()},
    }
    (draft / "state.json").write_text(json.dumps(state, indent=2) + "\n")


def _damage(path: Path) -> str | None:
    """Why `path` is no whole checkpoint, or None when it is one."""
    try:
        state = json.loads((path / "state.json").read_text())
        sizes = {name: (path / name).stat().st_size for name in state["files"]}
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        return f"state.json is torn: {error!r}"
    torn = [f"{name} has {sizes[name]} bytes of {size}" for name, size in state["files"].items() if sizes[name] != size]
    return "; ".join(torn) or None


def _dump(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's own word for a full disk is "unexpected pos"
        raise OSError(f"{path} cannot be written, is the disk full? {error}") from error


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"checkpoint file {path} cannot be read: {error}") from error


def _rng_state() -> dict[str, Any]:
    """The state of every generator in plain containers and tensors, which load without running pickled code."""
    numpy_state: Any = np.random.get_state(legacy=False)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    numpy_state = state["numpy"]
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    random.setstate(state["python"])
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    for device, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device_state, device)


def _checkpoints(folder: Path) -> list[Path]:
    """Folders named like checkpoints, oldest first."""
    numbers = [path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*") if path.is_dir()]
    return [folder / f"{_PREFIX}{number}" for number in sorted(map(int, filter(str.isdecimal, numbers)))]


def _point_last(folder: Path, target: Path) -> None:
    link = folder / f"{_TEMPORARY}last"
    link.symlink_to(target.name)
    link.replace(folder / "last")
    _force_to_disk(folder)


def _prune(folder: Path, keep: int) -> None:
    if keep:
        current = (folder / "last").resolve()
        for path in _checkpoints(folder)[:-keep]:
            if path.resolve() != current:
                shutil.rmtree(path)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{_TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
