"""A seeded key-value store: what `env=lookup` looks values up in, and what `task=lookup` asks about."""

from dataclasses import dataclass

from turnwise.seeding import derive_seed

FIRST, LAST = 1000, 9999
"""Keys and values are the whole numbers between these: every value is a key again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyValueStore:
    """A store that holds a value for every key, both pure functions of its `name`: nothing is kept, nothing differs.

    A problem's statement is the name of its store. So no two problems share one, and no value can be learnt by heart.
    """

    name: str

    def __contains__(self, key: str) -> bool:
        return key.isascii() and key.isdecimal() and len(key) == len(str(LAST)) and int(key) >= FIRST

    def __getitem__(self, key: str) -> str:
        """The value of a key.

        Raises:
            KeyError: There is no such key.
        """
        if key not in self:
            raise KeyError(key)
        return str(FIRST + derive_seed("key_values", self.name, key) % (LAST - FIRST + 1))
