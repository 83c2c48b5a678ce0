"""Attention heads of a size that vLLM's CPU kernels lack: filled up with zeros to a size that they have.

The extra entries of queries and keys add nothing to a score, those of the values meet zero columns of the output
projection, and the rotation is told to leave them alone: the function stays the same.
"""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Those of vLLM's `CPUAttentionBackend`."""


def head_size(config: Any) -> int:
    """Entries of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def cpu_head_size(size: int) -> int:
    """The smallest size with a kernel that holds heads of `size`.

    Raises:
        ValueError: There is none.
    """
    fitting = [one for one in CPU_HEAD_SIZES if one >= size]
    if not fitting:
        raise ValueError(f"vLLM's CPU kernels take heads of up to {CPU_HEAD_SIZES[-1]}, this model has {size}")
    return fitting[0]


def padded_config(config: Any, padded: int) -> Any:
    """The configuration of the same model with heads of `padded` entries, of which the first ones are rotated."""
    size, config = head_size(config), copy.deepcopy(config)
    if padded != size:
        config.head_dim = padded
        config.rope_parameters = {**config.rope_parameters, "partial_rotary_factor": size / padded}
    return config


def padded_weights(weights: Mapping[str, Tensor], size: int, padded: int) -> dict[str, Tensor]:
    """The weights with heads of `padded` entries.

    Scores are divided by the root of the head size, so the queries make up for the larger one.
    """
    if padded == size:
        return dict(weights)
    return {name: _padded(name, tensor, size, padded) for name, tensor in weights.items()}


def _padded(name: str, tensor: Tensor, size: int, padded: int) -> Tensor:
    layer = name.split(".")[-2:-1]
    if layer == ["o_proj"] and tensor.ndim == 2:
        return pad(tensor.unflatten(1, (-1, size)), (0, padded - size)).flatten(1)
    if layer not in (["q_proj"], ["k_proj"], ["v_proj"]):
        return tensor
    heads = tensor.unflatten(0, (-1, size)).movedim(1, -1)
    filled = pad(heads, (0, padded - size)).movedim(-1, 1).flatten(0, 1)
    return filled * (padded / size) ** 0.5 if layer == ["q_proj"] else filled
