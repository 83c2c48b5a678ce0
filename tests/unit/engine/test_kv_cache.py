import torch

from turnwise.engine.kv_cache import BatchCache, PrefixStore


def entry(num_tokens: int, value: float = 0.0) -> torch.Tensor:
    return torch.full((1, 2, 1, num_tokens, 2), value)  # 16 bytes a token


def test_the_longest_stored_proper_prefix_is_found() -> None:
    store = PrefixStore(max_bytes=10_000)
    store.put((5, 6), entry(2))
    store.put((5, 6, 7, 8), entry(4))
    store.put((5, 6, 7, 8, 9), entry(5))
    found = store.take((5, 6, 7, 8, 9))  # the whole request is no proper prefix: its last logits are needed
    assert found is not None
    assert found.shape[3] == 4
    assert store.take((1, 5, 6)) is None


def test_an_entry_is_handed_out_once() -> None:
    store = PrefixStore(max_bytes=10_000)
    store.put((5, 6), entry(2))
    assert store.take((5, 6, 7)) is not None
    assert store.take((5, 6, 7)) is None


def test_beyond_the_limit_the_oldest_entries_go() -> None:
    store = PrefixStore(max_bytes=16 * 6)
    store.put((1, 2, 3), entry(3))
    store.put((4, 5, 6), entry(3))
    store.put((7, 8), entry(2))  # 3 + 3 + 2 tokens are too many, 3 + 2 are not
    assert store.take((1, 2, 3, 0)) is None
    assert store.take((4, 5, 6, 0)) is not None
    assert store.take((7, 8, 0)) is not None
    store.put(tuple(range(7)), entry(7))
    assert len(store) == 0


def test_storing_the_same_tokens_again_replaces_the_entry() -> None:
    store = PrefixStore(max_bytes=16 * 4)
    for value in range(5):
        store.put((1, 2, 3), entry(3, float(value)))
    assert len(store) == 1
    found = store.take((1, 2, 3, 4))
    assert found is not None
    assert found.unique().tolist() == [4.0]


def test_gather_keeps_rows_and_drops_the_columns_that_none_of_them_fills() -> None:
    # Row 0 fills columns 1, 3; row 1 column 0; row 2 columns 1, 2, 3. Rows 2 and 0 together need 1, 2, 3.
    filled = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 1, 1, 1, 0]], dtype=torch.bool)
    storage = torch.arange(3 * 5).float().view(1, 1, 3, 1, 5, 1).expand(1, 2, 3, 1, 5, 1).contiguous()
    cache = BatchCache(storage, filled, width=4).gather(torch.tensor([2, 0]), num_new_columns=2)
    assert cache.width == 3
    assert cache.capacity == 5
    assert cache.storage[0, 1, :, 0, :, 0].tolist() == [[11, 12, 13, 0, 0], [1, 2, 3, 0, 0]]
    assert cache.filled.long().tolist() == [[1, 1, 1, 0, 0], [1, 0, 1, 0, 0]]
    assert cache.sequence(1)[0, 0, 0, :, 0].tolist() == [1, 3]
