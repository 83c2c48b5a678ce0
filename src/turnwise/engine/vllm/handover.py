"""The near side of a hand-over: weights into shared memory, without a checkpoint on disk."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from turnwise.engine.vllm.worker import digest
from turnwise.ranks import current

SHARED_MEMORY = Path("/dev/shm")
"""A file system in memory, of every Linux; both processes map the same pages."""


class WeightNames:
    """The names and shapes of a model's weights, and which of them are one tensor."""

    def __init__(self, own: Mapping[str, Tensor]) -> None:
        """Notes them from a model's `state_dict`, which is not kept."""
        self._own = {name: (tensor.shape, tensor.data_ptr()) for name, tensor in own.items()}

    def complete(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights under every name that they have.

        Raises:
            ValueError: If names or shapes are not exactly the model's; tied weights may be named once.
        """
        given = {self._own[name][1]: tensor for name, tensor in weights.items() if name in self._own}
        missing = [name for name, (_, place) in self._own.items() if place not in given]
        unknown = [name for name in weights if name not in self._own]
        if missing or unknown:
            raise ValueError(f"load_weights: {missing=}, {unknown=}; expected the names of the engine's model")
        whole = {name: weights.get(name, given[place]) for name, (_, place) in self._own.items()}
        for name, (shape, _) in self._own.items():
            if whole[name].shape != shape:
                raise ValueError(f"load_weights: {name} has shape {[*whole[name].shape]}, expected {[*shape]}")
        return whole


def wire_weights(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """What is handed over: the weights as `dtype` on the CPU, tied ones once, under the name that comes first."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in weights.items():
        first.setdefault((tensor.data_ptr(), tensor.shape), name)
    return {name: weights[name].detach().to("cpu", dtype).contiguous() for name in first.values()}


@contextmanager
def in_shared_memory(weights: Mapping[str, Tensor], folder: Path = SHARED_MEMORY) -> Iterator[Path]:
    """A safetensors file in shared memory that is gone on the way out; who has mapped it may go on reading.

    The ranks of a machine hand over the same weights, so they share a file, which is named after what it holds: the
    first to come writes it, the last to leave removes it. Nobody waits for a rank that hands over nothing. What a
    process left that was killed, the next one removes.

    Raises:
        RuntimeError: The weights do not fit into what is left of shared memory.
    """
    home = folder / f"turnwise_{os.getuid()}"
    path = home / (secrets.token_hex(8) if current().local_count == 1 else _content(weights))
    with _locked(home):
        if not path.exists():
            _remove_unused(home)
            _write(weights, path)
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield path
    finally:
        with _locked(home):
            os.close(descriptor)


def _content(weights: Mapping[str, Tensor]) -> str:
    """A name for weights: those of other names, shapes or bits have another one."""
    listed = {name: (str(tensor.dtype), *tensor.shape, digest(tensor)) for name, tensor in weights.items()}
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _write(weights: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    size, left = sum(tensor.nbytes for tensor in weights.values()), shutil.disk_usage(path.parent).free
    if size > left:
        raise RuntimeError(
            f"the weights take {size >> 20} MiB, but {path.parent.parent} has {left >> 20} MiB left: give it more "
            f"(docker run --shm-size, or mount -o remount,size=... {path.parent.parent}), or use engine=vllm_server "
            f"engine.transfer=network"
        )
    unfinished = path.with_suffix(".part")
    save_file(dict(weights), unfinished)
    unfinished.rename(path)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Is alone in this user's folder, while others wait; it is there for no longer than a file in it is read."""
    while True:
        with suppress(FileExistsError):  # exist_ok would look again, and miss a folder that is removed meanwhile
            home.mkdir(mode=0o700)
        try:
            descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(home, descriptor):  # else it was removed meanwhile
            break
        os.close(descriptor)
    try:
        yield
    finally:
        _remove_unused(home)
        if not any(home.iterdir()):
            home.rmdir()
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether what is open is still what has the name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_unused(home: Path) -> None:
    """Removes the files that no process reads, whoever left them there."""
    for path in home.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
