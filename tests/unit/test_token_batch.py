import math
from dataclasses import replace

import pytest
import torch

from tiny_models import token_batch
from turnwise.types import TokenBatch

# Three sequences of 4, 2 and 3 tokens. Loss tokens: two turns in the first, none in the second, one turn in the third.
SEQUENCES = [([20, 31, 42, 53], [0, 1, 0, 1]), ([7, 8], [0, 0]), ([90, 91, 92], [0, 1, 1])]


@pytest.fixture
def batch() -> TokenBatch:
    made = token_batch(SEQUENCES)
    turn_index = torch.tensor([-1, 0, -1, 1, -1, -1, -1, 0, 0])
    return replace(made, turn_index=turn_index, num_loss_turns=3, num_loss_sequences=2)


def test_select_takes_whole_sequences_in_the_order_asked_for(batch: TokenBatch):
    part = batch.select([2, 0])
    assert part.token_ids.tolist() == [90, 91, 92, 20, 31, 42, 53]
    assert part.sequence_index.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert part.cu_seqlens.tolist() == [0, 3, 7]
    assert part.turn_index.tolist() == [-1, 0, 0, -1, 0, -1, 1]
    assert (part.num_loss_tokens, part.num_loss_turns, part.num_loss_sequences) == (4, 3, 2), "the whole step's"
    assert part.proximal_logprobs is None
    assert batch.places([2, 0]).tolist() == [6, 7, 8, 0, 1, 2, 3]


def test_select_takes_the_optional_log_probs_along(batch: TokenBatch):
    marked = replace(batch, proximal_logprobs=-torch.arange(9.0), reference_logprobs=-torch.arange(9.0) / 2)
    part = marked.select([1])
    assert part.proximal_logprobs is not None
    assert part.reference_logprobs is not None
    assert part.proximal_logprobs.tolist() == [-4, -5]
    assert part.reference_logprobs.tolist() == [-2, -2.5]


def test_nothing_selected_is_an_empty_batch(batch: TokenBatch):
    nothing = batch.select([])
    assert (nothing.num_sequences, nothing.token_ids.numel(), nothing.cu_seqlens.tolist()) == (0, 0, [0])


def test_counted_counts_the_loss_tokens_turns_and_sequences_at_hand(batch: TokenBatch):
    counts = [
        (part.num_loss_tokens, part.num_loss_turns, part.num_loss_sequences)
        for part in (batch.select(chosen).counted() for chosen in ([0, 1, 2], [0], [1], [2], []))
    ]
    assert counts == [(4, 3, 2), (2, 2, 1), (0, 0, 0), (2, 1, 1), (0, 0, 0)]


def test_split_deals_the_sequences_out(batch: TokenBatch):
    steps = batch.split(2)
    assert [step.token_ids.tolist() for step in steps] == [[20, 31, 42, 53, 90, 91, 92], [7, 8]]
    assert [step.num_loss_tokens for step in steps] == [4, 0]
    assert [step.num_sequences for step in batch.split(5)] == [1, 1, 1], "no step without a sequence"
    assert batch.split(1) == [batch], "one step is the batch itself, with the counts that it came with"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantages": torch.zeros(3)}, r"advantages: expected torch.float32 of shape \(9,\), got .* \(3,\)"),
        ({"loss_mask": torch.zeros(9)}, "loss_mask: expected torch.bool"),
        ({"proximal_logprobs": torch.zeros(4)}, r"proximal_logprobs: expected torch.float32 of shape \(9,\)"),
        ({"cu_seqlens": torch.tensor([0, 5], dtype=torch.int32)}, "runs from 0 to 5, expected 0 to 9"),
        ({"advantages": torch.full((9,), math.nan)}, "advantages holds NaN or infinity"),
        ({"behaviour_logprobs": torch.full((9,), -math.inf)}, "behaviour_logprobs holds NaN or infinity"),
        ({"reference_logprobs": torch.full((9,), math.nan)}, "reference_logprobs holds NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_named(batch: TokenBatch, changes, message: str):
    with pytest.raises(ValueError, match=message):
        replace(batch, **changes)


def test_what_no_loss_reads_may_be_anything(batch: TokenBatch):
    advantages = batch.advantages.masked_fill(~batch.loss_mask, math.nan)
    assert replace(batch, advantages=advantages).advantages.isnan().any()
