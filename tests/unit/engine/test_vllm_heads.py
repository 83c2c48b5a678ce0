from types import SimpleNamespace

import pytest
import torch

from turnwise.engine.vllm.heads import cpu_head_size, head_size, padded_config, padded_weights

SIZE, PADDED, HEADS, HIDDEN = 40, 64, 3, 16


@pytest.mark.parametrize(("size", "expected"), [(16, 32), (32, 32), (40, 64), (64, 64), (513 - 1, 512)])
def test_the_smallest_kernel_that_holds_the_head(size: int, expected: int) -> None:
    assert cpu_head_size(size) == expected


def test_no_kernel_is_large_enough() -> None:
    with pytest.raises(ValueError, match="up to 512, this model has 513"):
        cpu_head_size(513)


def test_config_rotates_the_first_entries_alone() -> None:
    config = SimpleNamespace(hidden_size=160, num_attention_heads=4, rope_parameters={"rope_theta": 1e4})
    padded = padded_config(config, PADDED)
    assert (head_size(config), head_size(padded)) == (40, 64)
    assert padded.rope_parameters == {"rope_theta": 1e4, "partial_rotary_factor": 0.625}  # 40 / 64
    assert config.rope_parameters == {"rope_theta": 1e4}


def test_scores_and_outputs_stay_the_same() -> None:
    torch.manual_seed(0)
    layer = {f"{name}_proj.weight": torch.randn(HEADS * SIZE, HIDDEN).double() for name in "qkv"}
    layer |= {f"{name}_proj.bias": torch.randn(HEADS * SIZE).double() for name in "qkv"}
    layer |= {"o_proj.weight": torch.randn(HIDDEN, HEADS * SIZE).double(), "norm.weight": torch.ones(HIDDEN)}
    weights = {f"layers.0.{name}": tensor for name, tensor in layer.items()}
    padded = padded_weights(weights, SIZE, PADDED)
    states = torch.randn(5, HIDDEN).double()

    def outputs(named: dict[str, torch.Tensor], size: int) -> torch.Tensor:
        q, k, v = (
            (states @ named[f"layers.0.{n}_proj.weight"].T + named[f"layers.0.{n}_proj.bias"])
            .unflatten(1, (HEADS, size))
            .transpose(0, 1)
            for n in "qkv"
        )
        attended = (q @ k.mT / size**0.5).softmax(-1) @ v
        return attended.transpose(0, 1).flatten(1) @ named["layers.0.o_proj.weight"].T

    torch.testing.assert_close(outputs(padded, PADDED), outputs(weights, SIZE))
    assert padded["layers.0.k_proj.weight"].shape == (HEADS * PADDED, HIDDEN)
    assert padded["layers.0.k_proj.weight"].unflatten(0, (HEADS, PADDED))[:, SIZE:].abs().max() == 0
    assert padded["layers.0.norm.weight"] is weights["layers.0.norm.weight"]


def test_a_size_that_has_a_kernel_changes_nothing() -> None:
    weights = {"layers.0.q_proj.weight": torch.ones(64, 8)}
    assert padded_weights(weights, 64, 64) == weights
