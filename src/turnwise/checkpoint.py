"""Checkpoints that are either whole or not there, and from which a run goes on exactly."""

import json
import logging
import pickle
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch

from turnwise.disk import force_to_disk, naming
from turnwise.manifest import damage_of, write_manifest
from turnwise.model.sharding import is_dealt_out, read_parts, write_parts
from turnwise.protocols import Policy
from turnwise.ranks import ALONE, Ranks
from turnwise.rotation import (
    draft_of,
    found_checkpoints,
    note_of,
    path_of,
    point,
    publish,
    remove_leftovers,
    tidy,
)
from turnwise.seeding import generator_states, set_generator_states
from turnwise.tracker.atomic import write_atomically
from turnwise.types import TokenBatch

RECORD = "run.json"
"""In a checkpoint: the record of the run that made it, a copy of the `config.json` beside the checkpoints."""
_WHOLE, _PARTS = "optimiser.pt", "optimiser"
"""The optimiser's state of one process, and that of a policy that is dealt out."""

log = logging.getLogger(__name__)


class Cursor(Protocol):
    """Where a run stands in what it learns from, such as a `Task`."""

    def state_dict(self) -> dict[str, Any]:
        """The place, JSON-serialisable."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to it."""
        ...


def save(
    folder: Path, step: int, *, policy: Policy, task: Cursor, keep: int, every: int = 1, ranks: Ranks = ALONE
) -> Path:
    """Writes `folder`/step_<step>, points `folder`/last at it and removes what is no longer kept.

    It holds the weights in the Hugging Face layout, the optimiser's state (`optimiser.pt`, or a folder `optimiser` with
    the parts of all ranks, written by torch.distributed.checkpoint), `rng.pt` (Python, NumPy, torch, every CUDA
    device), `state.json` (step, task cursor, versions), `run.json` where the run's folder has a `config.json`, and
    `files.json`: size and SHA-256 of every other file. All of it is written under a temporary name, forced to disk,
    then renamed: a kill or a full disk leaves the earlier checkpoints as they were. Checkpoints of later steps, which
    the run has taken back if there are any, go.

    Args:
        folder: The run's checkpoints; made when missing.
        step: The step that a resumed run begins with, which is the number of finished steps.
        policy: Gives weights and optimiser state.
        task: Gives the cursor.
        keep: How many of the newest to keep, of all and of the regular ones, beside what `best` names; 0 keeps all.
        every: Steps between two regular ones. Others are left by a run that is told to stop, and push none of them out.
        ranks: Who trains the policy: all of them call this, and see the same folder.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: It cannot be written; `filename` is the checkpoint's.
    """
    if step < 0 or keep < 0:
        raise ValueError(f"step={step}, keep={keep}: expected both >= 0")
    target, draft = path_of(folder, step), draft_of(folder, step)
    is_last = ranks.is_first and (folder / "last").resolve() == target.resolve()
    if ranks.gather(is_last and damage_of(target, reads_all=True) is None)[0]:  # resumed here, stopped at once
        ranks.by_first(lambda: tidy(folder, step, keep, every))
        return target
    try:
        with naming(target):
            ranks.by_first(lambda: _begin(draft))
            policy.save_pretrained(draft)
            _write_optimiser(policy.state_dict(), draft)
            ranks.by_first(lambda: _complete(draft, step, task))
            ranks.by_first(lambda: publish(draft, target))
    finally:
        if ranks.is_first:
            with suppress(OSError):  # a rank that has not heard of a failure yet may write on; the next save removes it
                remove_leftovers(folder)
    ranks.by_first(lambda: tidy(folder, step, keep, every))
    return target


def note_accuracy(folder: Path, step: int, accuracy: float | None, *, keep: int, every: int = 1) -> None:
    """Notes what the weights that have seen `step` steps came to, if there is a checkpoint of them.

    `folder`/best names the checkpoint with the highest accuracy that was noted, the earliest of equals; it is kept
    however old it becomes.

    Args:
        folder: The run's checkpoints.
        step: Where the evaluation stands.
        accuracy: Over all evaluation sets, such as `tracker.evaluations.overall_accuracy`; None notes nothing.
        keep: As for `save`.
        every: The same.
    """
    path = path_of(folder, step)
    if accuracy is not None and path.is_dir():
        write_atomically(note_of(path), (json.dumps({"accuracy": accuracy}) + "\n").encode())
        tidy(folder, step, keep, every)


def latest(folder: Path) -> Path | None:
    """The checkpoint to resume from: the one that `last` names, else the newest, whose every byte is as written.

    A damaged one that is passed over is named in a warning. Without any checkpoint it is None.

    Raises:
        ValueError: There are checkpoints, but none is whole; the message names what is wrong with each.
    """
    newest = reversed([path.resolve() for path in found_checkpoints(folder)])
    found, damaged = first_whole([(folder / "last").resolve(), *newest])
    if found is None and damaged:
        raise ValueError(
            f"no checkpoint is whole: {'; '.join(damaged)}. Put back a copy of one of them, or remove {folder} to "
            f"start from step 0"
        )
    return found


def first_whole(candidates: Iterable[Path]) -> tuple[Path | None, list[str]]:
    """The first folder whose every byte is as written; and what is wrong with those before it, also as a warning."""
    damaged: list[str] = []
    for path in dict.fromkeys(path for path in candidates if path.is_dir()):
        if (damage := damage_of(path, reads_all=True)) is None:
            if damaged:
                log.warning("a damaged checkpoint is passed over: %s; going on from %s", "; ".join(damaged), path)
            return path, damaged
        damaged.append(f"{path}: {damage}")
    return None, damaged


def restore(path: Path, policy: Policy, task: Cursor) -> int:
    """Puts weights, optimiser, task cursor and every random generator back as `save` found them.

    Args:
        path: What `latest` gave. Here the sizes of its files are looked at again, and not every byte.
        policy: Takes weights and optimiser state.
        task: Takes the cursor.

    Returns:
        The step to begin with.

    Raises:
        ValueError: The checkpoint is torn or not one at all, or of another model, optimiser or task; the message names
            the file or what differs.
    """
    if (damage := damage_of(path)) is not None:
        raise ValueError(f"checkpoint {path}: {damage}")
    state = json.loads((path / "state.json").read_text())
    optimiser, rng = _read_optimiser(policy, path), _load(path / "rng.pt")
    if (there := sorted(state["task"])) != (here := sorted(task.state_dict())):
        raise ValueError(f"checkpoint {path}: its task keeps {there}, this one keeps {here}: it is of another task")
    with _fitting(path):
        policy.load_pretrained(path)
        policy.load_state_dict(read_parts(policy.state_dict(), path / _PARTS) if optimiser is None else optimiser)
        task.load_state_dict(state["task"])
    set_generator_states(rng)
    return state["step"]


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """What the policy or the task refuses is another run's."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"checkpoint {path} is of another run: {error}") from error


def take_back(folder: Path, found: Path, step: int) -> None:
    """Points `last` at `found`, the checkpoint of `step` from which a run goes on, and removes those of later steps.

    Where it is the folder `last` itself, a copy by what knows no links, it gets its name back.
    """
    target = path_of(folder, step)
    if found.name == target.name:
        point(folder, "last", target)
    else:
        publish(found, target)
    tidy(folder, step, keep=0)


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


def _read_optimiser(policy: Policy, folder: Path) -> dict[str, Any] | None:
    """What a single process wrote; None for parts, which are read into what the policy has."""
    if (is_dealt := is_dealt_out(policy.state_dict())) != (folder / _PARTS).is_dir():
        wanted = "several processes (trainer=fsdp)" if is_dealt else "one process (trainer=single)"
        raise ValueError(f"checkpoint {folder} was not written by {wanted}, as this run is")
    return None if is_dealt else _load(folder / _WHOLE)


def _begin(draft: Path) -> None:
    draft.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(draft.parent)
    draft.mkdir()


def _complete(draft: Path, step: int, task: Cursor) -> None:
    """Writes what one process knows of the checkpoint, and forces all of it to disk."""
    _dump(generator_states(), draft / "rng.pt")
    _write_state(draft, step, task)
    if (record := draft.parent.parent / "config.json").exists():
        shutil.copyfile(record, draft / RECORD)
    write_manifest(draft)
    for path in [*draft.rglob("*"), draft]:
        force_to_disk(path)


def _write_state(draft: Path, step: int, task: Cursor) -> None:
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "numpy")}
    versions = {"python": platform.python_version(), **packages}
    state = {"step": step, "task": task.state_dict(), "versions": versions}
    (draft / "state.json").write_text(json.dumps(state, indent=2) + "\n")


def _dump(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # given a path, torch would not say that the disk is full
        torch.save(state, file)


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"checkpoint file {path} cannot be read: {error}") from error
