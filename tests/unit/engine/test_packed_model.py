import copy
from typing import Any

import pytest
import torch

from tiny_models import small_model
from turnwise.engine.packed_model import PackedModel
from turnwise.engine.packed_pass import PackedPass, Stretch
from turnwise.engine.slot_cache import SlotCache, SlotLayout

PROMPTS = ((20, 30, 40), (50,), (7, 8, 9, 10, 11))


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "SmolLM3", "Mistral", "Gemma", "Phi3", "Granite"])
def test_a_packed_pass_gives_each_trajectory_the_logits_that_it_has_alone(family: str) -> None:
    overrides: dict[str, Any] = {"sliding_window": None} if family == "Mistral" else {}
    model = small_model(family=family, **overrides)
    packed_model = PackedModel(copy.deepcopy(model))
    cache = SlotCache(packed_model.shape, SlotLayout(num_slots=3, num_columns=8), packed_model.device)
    for start, stop in ((0, 3), (3, 4), (4, 8)):  # two passes that prefill, one that decodes between them
        rows = [(*prompt, 60, 61, 62, 63, 64, 65, 66)[:stop] for prompt in PROMPTS]
        packed = PackedPass(cache, [Stretch(slot, start, row[start:]) for slot, row in enumerate(rows)], ())
        logits = packed_model.logits(packed, [packed.last_rows[slot] for slot in range(3)])
        alone = torch.cat([model(input_ids=torch.tensor([row])).logits[:, -1] for row in rows])
        torch.testing.assert_close(logits, alone, rtol=0, atol=1e-4)


def test_a_row_may_be_asked_for_twice_and_none_at_all() -> None:
    model = PackedModel(small_model())
    cache = SlotCache(model.shape, SlotLayout(num_slots=1, num_columns=4), model.device)
    twice = model.logits(PackedPass(cache, [Stretch(0, 0, (1, 2))], ()), [1, 1])
    assert twice[0].equal(twice[1])
    assert model.logits(PackedPass(cache, [Stretch(0, 2, (3, 4))], ()), []).shape == (0, twice.shape[1])


@pytest.mark.parametrize("tied", [True, False])
def test_loaded_weights_are_those_that_sample_tied_ones_too(tied: bool) -> None:
    model, other = PackedModel(small_model(tie_word_embeddings=tied)), small_model(seed=1, tie_word_embeddings=tied)
    model.load(other.state_dict())
    cache = SlotCache(model.shape, SlotLayout(num_slots=1, num_columns=4), model.device)
    logits = model.logits(PackedPass(cache, [Stretch(0, 0, (1, 2, 3))], ()), None)
    torch.testing.assert_close(logits, other(input_ids=torch.tensor([[1, 2, 3]])).logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("Mistral", {"sliding_window": 4}, "full attention in every layer, mistral has DynamicSlidingWindowLayer"),
        (
            "Gemma2",
            {"layer_types": ["full_attention"] * 2},
            "full attention in every layer, Gemma2Attention has softcap",
        ),
        ("GptOss", {"layer_types": ["full_attention"] * 2}, "full attention in every layer, GptOssAttention has s_aux"),
        ("StableLm", {}, "StableLmAttention is not told which tokens belong together"),
        ("Falcon", {}, "handed over to transformers, FalconForCausalLM keeps its own"),
        ("Bloom", {}, "handed over to transformers, BloomForCausalLM keeps its own"),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "llama has rope_type=dynamic",
        ),
    ],
)
def test_a_model_that_does_more_than_full_attention_is_refused(
    family: str, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PackedModel(small_model(family=family, **overrides))


def test_weights_must_have_the_models_names_and_shapes_but_tied_ones_need_one_name() -> None:
    model, weights = PackedModel(small_model()), small_model(seed=1).state_dict()
    weights.pop("lm_head.weight")
    model.load(weights)
    with pytest.raises(ValueError, match=r"unknown=\['extra'\]"):
        model.load({**weights, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"norm\.weight has shape \[3\], expected \[32\]"):
        model.load({**weights, "model.norm.weight": torch.zeros(3)})
    weights.pop("model.norm.weight")
    with pytest.raises(ValueError, match=r"missing=\['model\.norm\.weight'\]"):
        model.load(weights)
