"""Attention over packed trees, as an attention function of transformers: nothing is padded, no prompt is repeated."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from turnwise.model.attention import FLASH, Attention
from turnwise.model.prefix_tree import PrefixTree

_NAMES = {f"prefix_tree_{kernel.removeprefix('flash_attention_')}": kernel for kernel in Attention}
"""Attention functions by the names under which transformers finds them: without `flash`, which it takes for its own."""
_NOT_UNDERSTOOD = ("sliding_window", "softcap", "s_aux")
"""What some models hand to their attention, and what would change its result."""


def use_tree_attention(model: Any) -> None:
    """Makes every attention layer of `model` understand the keyword `tree`; the kernel that it was loaded with stays.

    A forward pass of the decoder then takes `input_ids` and `position_ids` `[1, M]` with `tree=PrefixTree`. One
    without it is plain causal attention: for whole sequences without padding.
    """
    from transformers import AttentionInterface

    current = model.config._attn_implementation
    name, kernel = next(pair for pair in _NAMES.items() if current in pair)
    AttentionInterface.register(name, partial(_attention, kernel=kernel))
    model.set_attn_implementation(name)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    kernel: Attention,
    scaling: float | None = None,
    tree: PrefixTree | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Queries `[B, heads, T, D]` and keys and values `[B, key heads, T, D]` to outputs `[B, T, heads, D]`."""
    for name in _NOT_UNDERSTOOD:
        if options.get(name) is not None:
            raise ValueError(f"{type(module).__name__} has {name}: the policy needs full attention in every layer")
    dtype = value.dtype
    if value.device.type == "cpu" and dtype == torch.bfloat16:  # attention's backward pass is slow in bfloat16 there
        value = value.float()
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast rotary embeddings widen the two
    if tree is None:
        attended = _sdpa(query, key, value, None, scaling)
    elif kernel in FLASH:
        return _variable_length(query, key, value, kernel, scaling, tree), None
    else:
        attended = _segment_by_segment(query, key, value, kernel, scaling, tree)
    return attended.transpose(1, 2).to(dtype), None


def _variable_length(
    query: Tensor, key: Tensor, value: Tensor, kernel: Attention, scaling: float | None, tree: PrefixTree
) -> Tensor:
    """One call of flash-attention: the keys of a prefix stand before those of every segment that continues it.

    With more keys than queries its causal mask is aligned at the last of both, which is what a prefix needs.
    """
    from transformers.modeling_flash_attention_utils import _flash_attention_forward

    if tree.key_places is not None:
        key, value = key.index_select(2, tree.key_places), value.index_select(2, tree.key_places)
    return _flash_attention_forward(
        *(tensor.transpose(1, 2) for tensor in (query, key, value)),
        attention_mask=None,
        query_length=query.shape[2],
        is_causal=True,
        softmax_scale=scaling,
        cu_seq_lens_q=tree.query_edges,  # type: ignore[arg-type]
        cu_seq_lens_k=tree.key_edges,  # type: ignore[arg-type]
        max_length_q=max(segment.length for segment in tree.segments),
        max_length_k=max(tree.key_lengths),
        attn_implementation=kernel,
    )


def _segment_by_segment(
    query: Tensor, key: Tensor, value: Tensor, kernel: Attention, scaling: float | None, tree: PrefixTree
) -> Tensor:
    attend = _eager if kernel is Attention.eager else _sdpa
    lengths = [segment.length for segment in tree.segments]
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    attended = []
    for place, (segment, mask) in enumerate(zip(tree.segments, tree.masks, strict=True)):
        own_keys, own_values = keys[place], values[place]
        if segment.prefix is not None:
            own_keys = torch.cat([keys[segment.prefix], own_keys], dim=2)
            own_values = torch.cat([values[segment.prefix], own_values], dim=2)
        attended.append(attend(queries[place], own_keys, own_values, mask, scaling))
    return torch.cat(attended, dim=2)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    if mask is not None and query.is_cuda:  # where the fast kernels take either a mask or heads that share keys
        key, value = (_for_every_head(tensor, query) for tensor in (key, value))
    with torch.autocast(query.device.type, enabled=False):
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )


def _eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """The definition, one matrix of weights for every head."""
    key, value = (_for_every_head(tensor, query) for tensor in (key, value))
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    return (
        scores.masked_fill(~mask, -torch.inf)
        .softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        .to(value.dtype)
        @ value
    )


def _for_every_head(tensor: Tensor, query: Tensor) -> Tensor:
    """Keys or values, repeated for the heads that share them."""
    return tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1)
