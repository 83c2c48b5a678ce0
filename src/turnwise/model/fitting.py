"""Whether what was saved is of the model at hand, and what differs where it is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_NUM_NAMED = 3
_MAY_DIFFER = ("lr", "fused", "foreach", "capturable")
"""Of the settings of an optimiser: what every update sets anew, and how the same numbers are computed."""


def check_weights(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Compares names and shapes.

    Raises:
        ValueError: They are not the same; the first that differ are named.
    """
    there, here = ({name: tuple(tensor.shape) for name, tensor in one.items()} for one in (saved, own))
    _check_same(there, here, "its weights do not fit this model")


def check_vocabulary(folder: Path, own: Mapping[str, int]) -> None:
    """Compares the tokens of the tokenizer in `folder`, and their ids, with `own`.

    Raises:
        ValueError: They are not the same; the first that differ are named.
    """
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(folder).get_vocab()
    there, here = ({f"token {token!r}": number for token, number in one.items()} for one in (saved, own))
    _check_same(there, here, "its tokenizer is not this model's")


def check_optimiser(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Compares the settings of an optimiser's saved state, and the shapes of its tensors, with those of `optimizer`.

    Raises:
        ValueError: They are not the same; the first that differ are named.
    """
    own = optimizer.state_dict()
    there, here = _sizes(saved), _sizes(own)
    for number, (old, new) in enumerate(zip(saved["param_groups"], own["param_groups"], strict=False)):
        for key in (old.keys() & new.keys()) - {"params", *_MAY_DIFFER}:
            there[f"{key} of group {number}"], here[f"{key} of group {number}"] = old[key], new[key]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, state in saved["state"].items():
        for key, value in state.items():
            if value.ndim and number < len(parameters):
                name = f"{key} of parameter {number}"
                there[name], here[name] = tuple(value.shape), tuple(parameters[number].shape)
    _check_same(there, here, "its optimiser is not this one")


def check_parts(saved: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]) -> None:
    """Compares names and shapes of the tensors that several processes wrote of optimiser and adapter.

    Raises:
        ValueError: They are not the same; the first that differ are named.
    """
    _check_same(saved, own, "its optimiser is not this one")


def _sizes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {f"parameters of group {number}": len(group["params"]) for number, group in enumerate(state["param_groups"])}


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], refusal: str) -> None:
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if names:
        absent = "absent"
        pairs = [f"{name} is {there.get(name, absent)} there, {here.get(name, absent)} here" for name in names]
        more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
        raise ValueError(f"{refusal}: {'; '.join(pairs[:_NUM_NAMED])}{more}")
