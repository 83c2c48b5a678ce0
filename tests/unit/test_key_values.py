import pytest

from turnwise.key_values import KeyValueStore


def test_values_are_keys_and_depend_on_the_name_alone() -> None:
    store, other = KeyValueStore(name="one"), KeyValueStore(name="two")
    keys = [str(key) for key in range(1000, 10_000)]
    values = [store[key] for key in keys]
    assert all(value in store for value in values)
    assert values == [KeyValueStore(name="one")[key] for key in keys]
    same = sum(value == other[key] for key, value in zip(keys, values, strict=True))
    assert same < 20  # by chance 9,000 / 9,000 = 1
    # Values as random as they should be: of 9,000 draws from 9,000 values 1 - 1/e = 63.2% occur.
    assert len(set(values)) / 9000 == pytest.approx(0.632, abs=0.02)


def test_values_never_change() -> None:
    # Pinned: another derivation would change the answers of problems that runs were evaluated on.
    assert [KeyValueStore(name="pinned")[key] for key in ("1000", "4711", "9999")] == ["6930", "8515", "4640"]


@pytest.mark.parametrize(
    "key", ["", "0", "999", "0999", "10000", "-1000", " 1000", "1000\n", "1e3", "١٠٠٠", "1_000", "x"]
)
def test_anything_else_is_no_key(key: str) -> None:
    store = KeyValueStore(name="one")
    assert key not in store
    with pytest.raises(KeyError):
        store[key]
