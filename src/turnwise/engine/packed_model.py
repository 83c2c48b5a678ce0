"""A causal language model of transformers that runs packed passes.

Its attention is replaced through transformers' attention interface, so any decoder with full attention in every layer
runs unchanged, with neither a cache nor a mask of transformers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from turnwise.engine.decode_graph import StaticPass
from turnwise.engine.packed_pass import PackedPass, Stretch
from turnwise.engine.prepacked import prepack
from turnwise.engine.slot_cache import SlotCache, SlotLayout, SlotShape

NAME = "turnwise_slots"
"""Of the attention function, in transformers' registry."""
HARMLESS = frozenset({"dropout", "position_ids", "use_cache", "is_causal", "output_router_logits"})
"""Options of attention functions that change nothing here: the model is in evaluation mode."""
LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})
"""Rotary embeddings that turn a token by an angle that depends on the longest trajectory of a pass."""


class PackedModel:
    """The model, its device and what a token of it leaves in a slot."""

    def __init__(self, model: nn.Module) -> None:
        """Takes `model` over: its attention works in packed passes only from here on.

        Raises:
            ValueError: It does more than full attention in every layer, or does not let others attend in its place.
        """
        from transformers import AttentionInterface

        self._model = cast(Any, model.eval().requires_grad_(False))
        _check_layers(self._model)
        AttentionInterface.register(NAME, _attend)
        self._model.set_attn_implementation(NAME)
        if self._model.config._attn_implementation != NAME:
            name = type(model).__name__
            raise ValueError(f"engine=hf needs attention that is handed over to transformers, {name} keeps its own")
        own = model.state_dict()
        self._shapes = {name: tensor.shape for name, tensor in own.items()}
        self._storages = {name: tensor.data_ptr() for name, tensor in own.items()}
        del own  # whose tensors could not go else
        self._linears = prepack(model)
        self.device = next(model.parameters()).device
        self.shape = SlotShape.of(self._model)
        self.max_positions: int = self._model.config.get_text_config().max_position_embeddings
        trial = SlotCache(self.shape, SlotLayout(num_slots=1, num_columns=2), self.device)
        self.logits(PackedPass(trial, [Stretch(0, 0, (0, 0))], []), [1])

    @torch.inference_mode()
    def logits(self, packed: PackedPass | StaticPass, rows: Sequence[int] | None) -> Tensor:
        """Runs a pass; the logits `[len(rows), V]` after those of its rows, which may repeat; after all for None."""
        keep = 0 if rows is None else torch.tensor(rows, dtype=torch.int64, device=self.device)
        output = self._model(
            input_ids=packed.token_ids[None],
            position_ids=packed.positions[None],
            use_cache=False,
            logits_to_keep=keep,
            packed_pass=packed,
        )
        return output.logits[0]

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copies weights.

        Raises:
            ValueError: Names or shapes are not those of the model.
        """
        given = {self._storages[name]: tensor for name, tensor in weights.items() if name in self._storages}
        missing = [name for name, storage in self._storages.items() if storage not in given]
        unknown = [name for name in weights if name not in self._storages]
        if missing or unknown:
            raise ValueError(f"load_weights: {missing=}, {unknown=}; expected the names of the engine's model")
        for name, tensor in weights.items():
            if (expected := self._shapes[name]) != tensor.shape:
                raise ValueError(f"load_weights: {name} has shape {[*tensor.shape]}, expected {[*expected]}")
        for name, linear in self._linears.items():
            linear.pack(given[self._storages[name]])
        for name, tensor in self._model.state_dict().items():
            tensor.copy_(given[self._storages[name]])


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    packed_pass: PackedPass | StaticPass | None = None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer."""
    needs = "engine=hf needs full attention in every layer"
    if packed_pass is None:
        raise ValueError(f"{needs}, {type(module).__name__} is not told which tokens belong together")
    if extra := sorted(name for name, option in options.items() if name not in HARMLESS and option is not None):
        raise ValueError(f"{needs}, {type(module).__name__} has {', '.join(extra)}")
    return packed_pass.attend(module.layer_idx, query, key, value, scaling), None


def _check_layers(model: Any) -> None:
    from transformers.cache_utils import DynamicCache, DynamicLayer

    config = model.config.get_text_config()
    kinds = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer}
    if kinds:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"engine=hf needs full attention in every layer, {config.model_type} has {names}")
    for module in model.modules():
        if getattr(module, "rope_type", None) in LENGTH_DEPENDENT:
            raise ValueError(
                f"engine=hf needs positions that mean the same at every length, {config.model_type} has "
                f"rope_type={module.rope_type}"
            )
