"""Which problems are known from an evaluation set: those that share a run of words with one of its problems."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

MIN_CONTAINED = 5
"""Words from which on a statement that is shorter than a run is looked for inside others."""
_WORD = re.compile(r"\w+")


class Contamination:
    """The evaluation sets in use, ready to be asked about any number of statements.

    Words are runs of letters, digits and underscores, in lower case; what stands between them does not count. Of a
    set's statement that has fewer than `ngram` words, all of them in a row give another one away; fewer than
    `MIN_CONTAINED` do so only as the whole of it. A short statement inside a longer one of a set stays new. Runs of
    `ngram` words are compared by 64-bit hashes, so a chance agreement is possible and negligible.
    """

    def __init__(self, statements: Mapping[str, Iterable[str]], ngram: int) -> None:
        """Reads the sets.

        Args:
            statements: The statements of each set by its name; the first set that holds a run of words is named.
            ngram: Words of a run; 0 compares whole statements alone.
        """
        self._ngram = ngram
        self._set_of: dict[int, str] = {}
        self._short: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
        """Statements shorter than a run, with their sets, by their first words."""
        for set_name, texts in statements.items():
            for text in texts:
                words = _WORD.findall(text.lower())
                for key in self._keys(text, words):
                    self._set_of.setdefault(key, set_name)
                if MIN_CONTAINED <= len(words) < ngram:
                    self._short.setdefault(tuple(words[:MIN_CONTAINED]), {}).setdefault(tuple(words), set_name)

    def known_from(self, statement: str) -> str | None:
        """The name of the set that the statement is known from; None when it is new."""
        words = _WORD.findall(statement.lower())
        found = (self._set_of[key] for key in self._keys(statement, words) if key in self._set_of)
        return next(found, None) or next(self._contained(words), None)

    def _contained(self, words: Sequence[str]) -> Iterator[str]:
        """The sets of the short statements that stand among the words, in order."""
        if not self._short:
            return
        for start in range(len(words) - MIN_CONTAINED + 1):
            candidates = self._short.get(tuple(words[start : start + MIN_CONTAINED]), {})
            yield from (name for short, name in candidates.items() if short == tuple(words[start : start + len(short)]))

    def _keys(self, statement: str, words: Sequence[str]) -> Iterator[int]:
        if not words:
            yield hash(" ".join(statement.split()))
        elif not self._ngram or len(words) < self._ngram:
            yield hash((len(words), *words))
        else:
            yield from (hash(tuple(words[i : i + self._ngram])) for i in range(len(words) - self._ngram + 1))


def counted(removed: Mapping[str, int]) -> str:
    """How many problems were removed because of which set, for a person."""
    return ", ".join(f"{count} known from {name}" for name, count in removed.items())
