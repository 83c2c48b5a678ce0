"""Attention of packed passes against the textbook's, with keys and values that no model made."""

import math

import pytest
import torch
from torch import Tensor

from turnwise.engine.packed_pass import Copy, PackedPass, Stretch
from turnwise.engine.slot_cache import SlotCache, SlotLayout, SlotShape

HEADS, KEY_HEADS, SIZE, COLUMNS = 4, 2, 8, 12


def slots(num_slots: int = 8) -> SlotCache:
    shape = SlotShape(num_layers=2, num_heads=KEY_HEADS, head_size=SIZE, dtype=torch.float32)
    return SlotCache(shape, SlotLayout(num_slots=num_slots, num_columns=COLUMNS), torch.device("cpu"))


def rows(num_heads: int, num_tokens: int) -> Tensor:
    return torch.randn(1, num_heads, num_tokens, SIZE)


def textbook(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`[H, D]`: one query `[H, D]` that looks at all of `[key heads, P, D]`."""
    keys, values = (t.repeat_interleave(HEADS // KEY_HEADS, dim=0).double() for t in (keys, values))
    scores = (query.double()[:, None] @ keys.transpose(1, 2)).squeeze(1) / math.sqrt(SIZE)
    return (scores.softmax(-1)[:, None] @ values).squeeze(1)


def assert_each_token_looks_back(cache: SlotCache, stretches: list[Stretch], copies: tuple[Copy, ...] = ()) -> None:
    """Runs a pass over what is in layer 1 of the cache, and looks again token by token."""
    packed = PackedPass(cache, stretches, copies)
    num_tokens = sum(len(s.token_ids) for s in stretches)
    query, key, value = rows(HEADS, num_tokens), rows(KEY_HEADS, num_tokens), rows(KEY_HEADS, num_tokens)
    found = packed.attend(1, query, key, value, None)
    assert found.shape == (1, num_tokens, HEADS, SIZE)
    stored_keys, stored_values = cache.layers[1]
    for stretch in stretches:
        first_row = packed.last_rows[stretch.slot] + 1 - len(stretch.token_ids)
        for place, position in enumerate(range(stretch.start, stretch.end)):
            row = first_row + place
            assert packed.token_ids[row] == stretch.token_ids[place]
            assert packed.positions[row] == position
            torch.testing.assert_close(stored_keys[stretch.slot, :, position], key[0, :, row])
            torch.testing.assert_close(stored_values[stretch.slot, :, position], value[0, :, row])
            seen = (stored_keys[stretch.slot, :, : position + 1], stored_values[stretch.slot, :, : position + 1])
            torch.testing.assert_close(found[0, row].double(), textbook(query[0, :, row], *seen), rtol=0, atol=1e-5)


@pytest.mark.parametrize("taken", [(3,), (0, 1, 2, 3), (0, 2, 3), (1, 7), (7, 0, 4, 2, 1)])
def test_tokens_of_many_slots_see_their_own_past_whether_the_slots_lie_densely_or_not(taken: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    cache = slots()
    cache.layers[1].normal_()  # what earlier trajectories left must not be seen
    assert_each_token_looks_back(cache, [Stretch(slot, 2 + slot, (10 + slot,)) for slot in taken])
    assert not cache.layers[0].any()


def test_stretches_from_nothing_after_a_past_and_of_one_token_share_a_pass() -> None:
    torch.manual_seed(0)
    cache = slots()
    cache.layers[1].normal_()
    stretches = [Stretch(5, 0, (1, 2, 3)), Stretch(2, 4, (4,)), Stretch(0, 6, (5, 6)), Stretch(6, 0, (7,))]
    assert_each_token_looks_back(cache, stretches)


def test_a_copy_gives_the_keys_and_values_of_the_same_pass_and_copies_may_follow_one_another() -> None:
    torch.manual_seed(0)
    cache = slots()
    # Slot 3 gets its first three tokens from slot 1, and slot 0 what it lacks of the first five from slot 3.
    cache.layers[1][:, 0, :, :2].normal_()
    stretches = [Stretch(1, 0, (1, 2, 3)), Stretch(3, 3, (4, 5)), Stretch(0, 5, (6,))]
    assert_each_token_looks_back(cache, stretches, (Copy(1, 3, 0, 3), Copy(3, 0, 2, 5)))
    layer = cache.layers[1]
    assert layer[:, 3, :, :3].equal(layer[:, 1, :, :3])
    assert layer[:, 0, :, 2:5].equal(layer[:, 3, :, 2:5])


def test_keys_that_do_not_fit_are_refused() -> None:
    packed = PackedPass(slots(), [Stretch(0, 0, (1, 2))], ())
    with pytest.raises(ValueError, match=r"keys \[1, 4, 2, 8\] and values \[1, 2, 2, 8\] do not fit"):
        packed.attend(0, rows(HEADS, 2), rows(HEADS, 2), rows(KEY_HEADS, 2), None)
