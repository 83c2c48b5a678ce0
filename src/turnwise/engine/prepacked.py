"""Linear maps on a CPU whose weights lie in the order in which oneDNN multiplies by them.

`torch.nn.functional.linear` takes weights row by row and sorts them into blocks at every call. With the few rows of a
pass that decodes, this takes a good part of the time. Sampling uses the same weights for thousands of passes, so
they are sorted once, when the engine gets them. The results are those of PyTorch's own call of oneDNN.
"""

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)


class PrepackedLinear(nn.Module):
    """A linear map in the place of an `nn.Linear`, whose weights it takes."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self.dtype = linear.weight.dtype
        self.pack(linear.weight)

    def pack(self, weight_OI: Tensor) -> None:
        """Takes weights `[out, in]` of any precision; keeps them in its own."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().to(self.dtype).contiguous(), None)

    def forward(self, rows_MI: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return torch.ops.mkldnn._linear_pointwise(rows_MI, self._packed, self.bias, "none", [], "")


def prepack(model: nn.Module) -> dict[str, PrepackedLinear]:
    """Puts a `PrepackedLinear` in the place of each `nn.Linear` of `model`; returns them by the names of their weights.

    None where oneDNN is missing, and off the CPU. Weights that a map shares with an embedding are then held twice. What
    else the model has is copied, for all of it may lie in one piece of memory, or in a file, that could not go else.
    """
    packed: dict[str, PrepackedLinear] = {}
    if not torch.backends.mkldnn.is_available():
        return packed
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype in DTYPES:
            packed[f"{name}.weight"] = PrepackedLinear(module)
            model.set_submodule(name, packed[f"{name}.weight"])
    if packed:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    return packed
