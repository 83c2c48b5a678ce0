import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_models import PolicyGradientLoss, small_model, small_policy, token_batch
from turnwise.model.adapter import add_adapter
from turnwise.model.policy import TorchPolicy

SEQUENCES = (((20, 21, 22, 23), (0, 0, 1, 1)), ((20, 21, 24), (0, 0, 1)), ((30, 31, 32), (0, 1, 1)))
BATCH = token_batch(SEQUENCES)


def adapted(model: Any = None, **settings: Any) -> TorchPolicy:
    return small_policy(model, **({"lora_rank": 4} | settings))


def plain(weights: Any) -> TorchPolicy:
    """A policy without an adapter that has these weights."""
    model = small_model()
    model.load_state_dict(dict(weights))
    return small_policy(model)


def test_an_adapter_begins_as_the_model_and_its_merged_weights_are_what_it_computes() -> None:
    made = adapted()
    fresh = small_model().state_dict()
    assert {name: tensor.shape for name, tensor in made.weights().items()} == {n: t.shape for n, t in fresh.items()}
    for name, tensor in made.weights().items():
        torch.testing.assert_close(tensor, fresh[name], rtol=0, atol=0)
    for _ in range(3):
        made.update(BATCH, PolicyGradientLoss())
    moved = [name for name, tensor in made.weights().items() if not tensor.equal(fresh[name])]
    assert len(moved) == 2 * 7  # of both layers query, key, value, output, gate, up and down
    assert all("_proj" in name for name in moved)
    torch.testing.assert_close(made.logprobs(BATCH), plain(made.weights()).logprobs(BATCH), rtol=0, atol=1e-5)


def test_only_the_adapter_is_trained() -> None:
    model = small_model()
    made = adapted(model)
    made.update(BATCH, PolicyGradientLoss())
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(made.state_dict()["state"]) == len(trained) == 2 * 7 * 2


def test_the_scale_is_alpha_over_rank() -> None:
    one, two = adapted(lora_alpha=4.0), adapted(lora_alpha=8.0)
    for made in (one, two):
        state = made.state_dict()
        state["adapter"] = {name: torch.full_like(tensor, 0.1) for name, tensor in state["adapter"].items()}
        made.load_state_dict(state)
    name = "model.layers.0.mlp.up_proj.weight"
    start = small_model().state_dict()[name]
    # Rank 4 of 0.1 x 0.1 is 0.04; alpha 4 counts it once, alpha 8 twice.
    torch.testing.assert_close(one.weights()[name] - start, torch.full_like(start, 0.04), rtol=0, atol=1e-6)
    torch.testing.assert_close(two.weights()[name] - start, torch.full_like(start, 0.08), rtol=0, atol=1e-6)


def test_a_checkpoint_is_a_plain_model_and_a_resumed_adapter_goes_on_exactly(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    made = adapted()
    made.update(BATCH, PolicyGradientLoss())
    made.save_pretrained(tmp_path)
    saved = LlamaForCausalLM.from_pretrained(tmp_path)
    for name, tensor in made.weights().items():
        torch.testing.assert_close(saved.state_dict()[name], tensor, rtol=0, atol=0)
    resumed = adapted()
    resumed.load_pretrained(tmp_path)
    resumed.load_state_dict(deepcopy(made.state_dict()))
    for one in (made, resumed):
        one.update(BATCH, PolicyGradientLoss())
    for name, tensor in made.weights().items():
        assert tensor.equal(resumed.weights()[name]), name


def test_the_state_of_another_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lora_A\.default\.weight is \(4, 32\) there, \(2, 32\) here; .* and 25 more"):
        adapted(lora_rank=2).load_state_dict(adapted().state_dict())
    with pytest.raises(ValueError, match=r"lora_A\.default\.weight is \(4, 32\) there, absent here; .* and 25 more"):
        small_policy().load_state_dict(adapted().state_dict())


def test_a_rank_that_saves_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"model\.lora_rank=32: expected less than the width of the model's layers, 32"
    ):
        adapted(lora_rank=32)


def test_small_steps_reach_the_merged_weights_of_a_model_in_half_precision() -> None:
    made = adapted(small_model().bfloat16(), dtype=torch.bfloat16, learning_rate=1e-6)
    before = {name: tensor.clone() for name, tensor in made.weights().items()}
    for _ in range(2):
        made.update(BATCH, PolicyGradientLoss())
    name = "model.layers.0.mlp.up_proj.weight"
    assert made.weights()[name].dtype == torch.float32
    moved = (made.weights()[name] - before[name]).abs()
    # Next to a weight of 0.2 bfloat16 knows no step below 2^-11; all of these are smaller, and not lost.
    assert 0 < moved.max() < 2**-12


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"model\.lora_rank needs peft: pip install '\.\[lora\]'"):
        adapted()


def test_checkpointed_layers_are_computed_twice_and_give_the_same_gradient() -> None:
    gradients, calls = [], []
    for gradient_checkpointing in (False, True):
        model = small_model(attention_dropout=0.5)  # would show if a layer's inside were in training mode
        made = small_policy(model, gradient_checkpointing=gradient_checkpointing)
        counted: list[int] = []
        model.model.layers[0].self_attn.register_forward_hook(lambda *_, seen=counted: seen.append(1))
        gradients.append(made.gradient(BATCH, PolicyGradientLoss()))
        calls.append(len(counted))
    assert calls == [1, 2]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-7)
    assert gradients[0].abs().sum() > 0


def test_a_model_whose_experts_lie_in_one_tensor_is_refused() -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=2,
    )
    with pytest.raises(ValueError, match=r"lora_rank=4: model\.layers\.0\.mlp.* is merged into linear layers"):
        add_adapter(Qwen3MoeForCausalLM(config), rank=4, alpha=32.0)
