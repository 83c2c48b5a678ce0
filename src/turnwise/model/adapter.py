"""Low-rank adapters (LoRA, arXiv 2106.09685): what is trained where all weights would be too many."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from turnwise.model.fitting import check_weights

_ADAPTER = "default"
_OF_ADAPTER = ".lora_"
_OF_BASE = ".base_layer."


def add_adapter(model: Any, *, rank: int, alpha: float) -> None:
    """Freezes `model` and puts a trainable product of two thin float32 matrices beside each linear layer but the head.

    A layer W becomes `W + alpha / rank * B A`. B begins with zeros, so the model begins as it was; A is drawn from
    torch's global generator.

    Raises:
        ValueError: peft is not installed, the rank is so high that nothing is saved, or the model has layers of another
            kind, such as experts whose weights lie in one tensor, which could not be merged.
    """
    width = model.config.get_text_config().hidden_size
    if rank >= width:
        raise ValueError(f"model.lora_rank={rank}: expected less than the width of the model's layers, {width}")
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ValueError("model.lora_rank needs peft: pip install '.[lora]' in the repository") from error
    settings: dict[str, Any] = {"lora_alpha": alpha, "target_modules": "all-linear", "lora_dropout": 0.0}
    inject_adapter_in_model(LoraConfig(r=rank, **settings), model, adapter_name=_ADAPTER)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and not isinstance(layer.get_base_layer(), nn.Linear):
            kind = type(layer.get_base_layer()).__name__
            raise ValueError(f"model.lora_rank={rank}: {name} is a {kind}, and an adapter is merged into linear layers")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_OF_ADAPTER in name)
        if _OF_ADAPTER in name:
            parameter.data = parameter.data.float()
    model.eval()


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """The adapter's own tensors, or this rank's parts of them; `load_adapter_weights` takes them back. May be empty."""
    return {name: tensor for name, tensor in model.state_dict().items() if _OF_ADAPTER in name}


@torch.no_grad()
def load_adapter_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Puts the adapter's tensors back.

    Raises:
        ValueError: They are those of another adapter.
    """
    own = adapter_weights(model)
    check_weights(weights, own)
    for name, tensor in weights.items():
        own[name].copy_(tensor)


@torch.no_grad()
def merged_weights(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights under the names of the plain model, each adapter added to its layer: what an engine can load.

    Layers with an adapter are float32: in half precision a small step would be rounded away.

    Args:
        model: What `add_adapter` changed; it is asked for the scale of its adapter alone.
        weights: Its tensors by name, whole also where the model is dealt out.
    """
    modules = dict(model.named_modules())
    merged = {}
    for name, tensor in weights.items():
        if _OF_ADAPTER in name:
            continue
        layer, of_base, rest = name.rpartition(_OF_BASE)
        if of_base and rest == "weight":
            down, up = (weights[f"{layer}{_OF_ADAPTER}{factor}.{_ADAPTER}.weight"] for factor in "AB")
            tensor = tensor.float() + up @ down * modules[layer].scaling[_ADAPTER]
        merged[f"{layer}.{rest}" if of_base else name] = tensor
    return merged
