import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_models import TEXTS, VOCAB_SIZE, tokenizer
from turnwise.model.tiny import CONTROL_TOKENS, new_tiny_model, train_tokenizer


def test_the_same_texts_give_the_same_tokenizer() -> None:
    again = train_tokenizer(TEXTS, VOCAB_SIZE)
    assert again.backend_tokenizer.to_str() == tokenizer().backend_tokenizer.to_str()
    assert len(again) == VOCAB_SIZE


@given(st.text())
def test_any_text_survives_a_round_trip(text: str) -> None:
    assert tokenizer().decode(tokenizer()(text, add_special_tokens=False)["input_ids"]) == text or any(
        token in text for token in CONTROL_TOKENS
    )


def test_digits_are_never_merged() -> None:
    tokens = tokenizer().tokenize("46 = 12 + 34")
    assert [token for token in tokens if any(char.isdigit() for char in token)] == ["4", "6", "1", "2", "3", "4"]


def test_a_vocabulary_without_room_for_a_merge_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size=262: expected > 262"):
        train_tokenizer(TEXTS, 262)


def test_the_model_has_about_a_million_parameters_and_is_a_function_of_the_seed() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (new_tiny_model(train_tokenizer(TEXTS * 9, 768), seed) for seed in (0, 0, 1))
    assert torch.random.get_rng_state().equal(before)
    assert 0.9e6 < sum(parameter.numel() for parameter in one.parameters()) < 1.3e6
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert all(a.equal(b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not one.lm_head.weight.equal(other.lm_head.weight)
    assert (one.config.eos_token_id, one.config.pad_token_id) == (1, 0)
