"""FLOPs and bytes that the work of a policy has to cost, whatever it does cost."""

from typing import Any

from turnwise.model.prefix_tree import micro_batches, plant
from turnwise.types import TokenBatch


def update_flops(config: Any, batch: TokenBatch, token_budget: int) -> float:
    """FLOPs that an update has to do: what is computed a second time to save memory, and AdamW, are not counted.

    With M tokens that go through the layers, prompts that siblings share counted once in each micro-batch, L of them
    before a loss token, W weights of the layers' linear maps, V x H of the output embedding, and a context of c tokens:
    `6 W M + 6 V H L + 12 layers heads D sum(c)`. Forward is a third, backward two.
    """
    flops = 0.0
    for sequences in micro_batches(batch, token_budget):
        tree = plant(batch.select(sequences))
        context = int((tree.position_ids_M + 1).sum())
        flops += 6 * layer_weights(config) * tree.token_ids_M.numel()
        flops += 6 * config.vocab_size * config.hidden_size * tree.predictors_L.numel()
        flops += 3 * attention_flops(config) * context
    return flops


def decode_flops(config: Any, num_rows: int, lengths: range) -> float:
    """FLOPs of a forward pass for `num_rows` rows at each length: `2 (W + V H) + 4 layers heads D length` for a row."""
    weights = layer_weights(config) + config.vocab_size * config.hidden_size
    return num_rows * sum(2 * weights + attention_flops(config) * length for length in lengths)


def layer_weights(config: Any) -> int:
    """Weights of the linear maps of a Llama's layers: queries and outputs, keys and values, and three of the MLP."""
    heads = config.num_attention_heads * config.head_dim
    key_heads = config.num_key_value_heads * config.head_dim
    return config.num_hidden_layers * config.hidden_size * (2 * heads + 2 * key_heads + 3 * config.intermediate_size)


def attention_flops(config: Any) -> int:
    """Of the forward pass, for a token and each token that it attends to: scores and weighted sum, 2 each."""
    return 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim


def decode_bytes(config: Any, num_rows: int, lengths: range, bytes_per_number: int = 2) -> float:
    """Bytes that a forward pass for `num_rows` rows at each length has to read: weights once, keys and values of a row.

    `(W + V H) + rows 2 layers key_heads D length` numbers.
    """
    weights = layer_weights(config) + config.vocab_size * config.hidden_size
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return bytes_per_number * sum(weights + num_rows * token * length for length in lengths)
