"""A policy dealt out over several devices by PyTorch's FSDP2, and its parts put together again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from turnwise.disk import naming
from turnwise.model.fitting import check_parts

if TYPE_CHECKING:  # PyTorch's sharding takes a while to import, and most runs do without
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How a model is dealt out: each device holds its part of every weight, gradient and moment.

    Weights are gathered for as long as their layer is at work, in the forward pass and in the backward pass again, so
    that between passes nobody holds any that an optimiser step has made old. Gradients are summed over the ranks, not
    averaged, because the losses of the parts of a step add up to the loss of the step.
    """

    mesh: "DeviceMesh"
    """One dimension: all devices share the policy. Two: replicas, each of which is shared by a row (HSDP)."""
    device: torch.device
    """Where passes are computed."""
    dtype: torch.dtype
    """Precision of the passes: weights are gathered in it. Parts that are held keep theirs: float32 if trained."""
    cpu_offload: bool = False
    """Hold parts, gradients and moments in the host's memory."""

    def __call__(self, whole: nn.Module, model: Any) -> None:
        """Deals out `model`, layer by layer, and what lies outside of the layers with `whole`, the module around it."""
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        half = None if self.dtype is torch.float32 else self.dtype
        options: dict[str, Any] = {
            "mesh": self.mesh,
            "reshard_after_forward": True,
            # What a layer gets is left as it is: a tree would be copied with the tensors in it, and all that it knows.
            "mp_policy": MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False),
            "offload_policy": CPUOffloadPolicy() if self.cpu_offload else OffloadPolicy(),
        }
        for layer in model.get_decoder().layers:
            _summing(fully_shard(layer, **options))
        _summing(fully_shard(whole, **options))


def make_mesh(device_type: str, num_ranks: int, shard_size: int) -> "DeviceMesh":
    """The devices of all ranks, as `Sharding.mesh` wants them.

    Args:
        device_type: cpu or cuda.
        num_ranks: Of the run; a process alone becomes a group of one.
        shard_size: Ranks that share one copy of the policy; 0: all.
    """
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore
    from torch.distributed.device_mesh import init_device_mesh

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    if shard_size in (0, num_ranks):
        return init_device_mesh(device_type, (num_ranks,), mesh_dim_names=("shard",))
    shape = (num_ranks // shard_size, shard_size)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together from the parts of all ranks, each of which must ask; any other tensor as it is."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights put together, by name; those that are tied are one tensor, as in a model that is not dealt out."""
    parts = model.state_dict()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names: dict[int, str] = {}
    weights: dict[str, Tensor] = {}
    for name, part in parts.items():
        same = names.setdefault(id(parameters.get(name, part)), name)
        weights[name] = whole(part) if same == name else weights[same]
    return weights


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Each rank takes its part of `weights`, which every rank has whole."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))


def optimiser_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """This rank's parts of it, by the names of the weights; of an optimiser that took no step yet, zeros."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    if optimiser.state:
        return get_optimizer_state_dict(model, optimiser)
    optimiser.zero_grad(set_to_none=True)
    state: Any = get_optimizer_state_dict(model, optimiser)  # which takes a step of length 0 to know what there will be
    optimiser.state.clear()
    for of_weight in state["state"].values():
        of_weight["step"].zero_()
    return state


def load_optimiser_state(model: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Puts back what `optimiser_state` gave."""
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    set_optimizer_state_dict(model, optimiser, dict(state))


def is_dealt_out(state: dict[str, Any]) -> bool:
    """Whether some tensor of `state` is a part of one that several ranks hold."""
    from torch.distributed.tensor import DTensor
    from torch.utils._pytree import tree_leaves

    return any(isinstance(leaf, DTensor) for leaf in tree_leaves(state))


def write_parts(state: dict[str, Any], folder: Path) -> None:
    """Each rank writes its parts of `state`, by torch.distributed.checkpoint.

    Raises:
        OSError: The disk refuses.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
    from torch.distributed.checkpoint.state_dict_saver import save

    class Writer(FileSystemWriter):
        def write_data(self, plan: SavePlan, planner: SavePlanner) -> Any:
            with naming(folder):  # here: what the other ranks hear of an error has lost its cause
                return super().write_data(plan, planner)

    with _plain_errors():
        save(state, storage_writer=Writer(folder))


def read_parts(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Each rank reads its parts into the tensors of `state`, which it returns, however many ranks wrote them.

    Raises:
        OSError: They cannot be read.
        ValueError: They are of another policy.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    with _plain_errors():
        written = FileSystemReader(folder).read_metadata().state_dict_metadata
        sizes = {name: tuple(one.size) for name, one in written.items() if isinstance(one, TensorStorageMetadata)}
        check_parts(sizes, _sizes(state))
        load(state, checkpoint_id=folder)
    return state


def _sizes(state: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Of all tensors, put together; their names as torch.distributed.checkpoint has them."""
    sizes: dict[str, tuple[int, ...]] = {}
    for key, value in state.items():
        if isinstance(value, Mapping):
            sizes |= _sizes(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor):
            sizes[f"{prefix}{key}"] = tuple(value.shape)
    return sizes


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What some rank met, in place of torch's exception around it, which is no Exception."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        met = [failure for failure, _ in error.failures.values()]
        refused = [one for one in met if isinstance(one, OSError)]
        if refused:
            raise OSError(refused[0].errno, refused[0].strerror, refused[0].filename) from error
        raise ValueError(f"{type(met[0]).__name__}: {met[0]}") from error


def _summing(sharded: Any) -> None:
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other sum with a factor
