"""Models of the sizes of Qwen2.5 with random weights, made where they are used: nothing is downloaded."""

from copy import deepcopy
from typing import Any

import torch

SIZES: dict[str, dict[str, int]] = {
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}
"""As published."""


def qwen_config(vocab_size: int = 151936, **sizes: int) -> Any:
    """The configuration of a Qwen2.5 of the given sizes; embeddings are tied, as in those of `SIZES`."""
    from transformers import Qwen2Config

    head_dim: dict[str, Any] = {"head_dim": sizes["hidden_size"] // sizes["num_attention_heads"]}
    return Qwen2Config(
        vocab_size=vocab_size,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        **sizes,
        **head_dim,
    )


def random_model(config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A causal language model whose weights never were anywhere else; `config`, which it would change, is copied."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(deepcopy(config), dtype=dtype, attn_implementation="sdpa").eval()
