"""The near side of a hand-over: weights into shared memory, without a checkpoint on disk."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

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

    Raises:
        RuntimeError: The weights do not fit into what is left of shared memory.
    """
    from safetensors.torch import save_file

    size, left = sum(tensor.nbytes for tensor in weights.values()), shutil.disk_usage(folder).free
    if size > left:
        raise RuntimeError(
            f"the weights take {size >> 20} MiB, but {folder} has {left >> 20} MiB left: give it more "
            f"(docker run --shm-size, or mount -o remount,size=... {folder})"
        )
    with tempfile.TemporaryDirectory(prefix="turnwise_", dir=folder) as name:
        path = Path(name) / "weights.safetensors"
        save_file(dict(weights), path)
        yield path
