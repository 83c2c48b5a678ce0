"""Which problems are known from an evaluation set: those that share a run of words with one of its problems."""

import re
from collections.abc import Iterable, Iterator, Mapping

_WORD = re.compile(r"\w+")


class Contamination:
    """The evaluation sets in use, ready to be asked about any number of statements.

    Words are runs of letters, digits and underscores, in lower case; what stands between them does not count. A
    statement of fewer than `ngram` words is known only if a set holds the very same words and no more. Runs are
    compared by 64-bit hashes, so a chance agreement is possible and negligible.
    """

    def __init__(self, statements: Mapping[str, Iterable[str]], ngram: int) -> None:
        """Reads the sets.

        Args:
            statements: The statements of each set by its name; the first set that holds a run of words is named.
            ngram: Words of a run; 0 compares whole statements alone.
        """
        self._ngram = ngram
        self._set_of: dict[int, str] = {}
        for name, texts in statements.items():
            for text in texts:
                for key in self._keys(text):
                    self._set_of.setdefault(key, name)

    def known_from(self, statement: str) -> str | None:
        """The name of the set that the statement is known from; None when it is new."""
        return next((self._set_of[key] for key in self._keys(statement) if key in self._set_of), None)

    def _keys(self, statement: str) -> Iterator[int]:
        words = _WORD.findall(statement.lower())
        if not words:
            yield hash(" ".join(statement.split()))
        elif not self._ngram or len(words) < self._ngram:
            yield hash((len(words), *words))
        else:
            yield from (hash(tuple(words[i : i + self._ngram])) for i in range(len(words) - self._ngram + 1))


def counted(removed: Mapping[str, int]) -> str:
    """How many problems were removed because of which set, for a person."""
    return ", ".join(f"{count} known from {name}" for name, count in removed.items())
