"""Likeness of programs by their token n-grams: no model, no download."""

import builtins
import keyword
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEPT_NAMES = frozenset(keyword.kwlist) | frozenset(dir(builtins))
_TOKEN = re.compile(
    r"""\s*+ (?: \#[^\n]*+ \s*+ | \\\r?\n \s*+ )*+            # layout, comments, continued lines: in one piece
        ( (?![if](?:mport|rom)\b) [a-zA-Z_]\w*+ (?![\"\'])    # a name that is no prefix of a string
        | [(),\]\[{};] | \d++(?![\w.]) | \.\s*+[^\W\d]\w*+    # an attribute is one token with its dot
        | [-+%:=]=?+(?!>)
        | (?: from\b [^\n;\#\"\']{1,200}? (?=\bimport\b) )?+  # an import statement is one token
          import\b (?: \([^)]{0,2000}+\) | \\\r?\n | [^\n;\#(\\\"\'] )*+
        | 0[xXoObB][\da-fA-F_]++ | (?: \d[\d_]*+\.?[\d_]*+ | \.\d[\d_]*+ ) (?:[eE][-+]?\d[\d_]*+)?+ [jJ]?
        | [rRbBuUfF]{0,2} (?: \"{3} (?:[^\\]|\\.)*? \"{3} | \'{3} (?:[^\\]|\\.)*? \'{3}
                            | \" (?:[^\"\\\n]|\\.)*+ \"   | \' (?:[^\'\\\n]|\\.)*+ \' )
        | \*\*=? | //=? | >>=? | <<=? | -> | \.{3} | [-+*/%&|^@=<>!]=?+
        | \w+ | [^\s\w] | \Z )""",
    re.VERBOSE | re.DOTALL,
)
"""One token behind what lies between tokens; common ones first. Total: any text is tokens, program or not."""
_TOKEN_OF_IMPORT = re.compile(r"\#[^\n]*+|(\.{3}|\.\s*\w+|\w+|[^\w\s\\])")
_STRING = '""'
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that every bit of a hash counts


@dataclass(frozen=True, kw_only=True)
class LexicalSimilarity:
    """Cosine of the token n-gram counts of two programs, in [0, 1].

    Layout and comments are dropped. Names that the program makes up are renamed in order of appearance, so that the
    choice of names does not count; keywords, builtins, attributes and imported names are kept. Numbers are kept: they
    are the operands of the problem. Strings are one and the same token: most of them label the output.

    N-grams are counted by 64-bit hashes; two different ones are taken for the same once in 10^19 comparisons.

    The default similarity of shaping; the paper compares text embeddings (see `EmbeddingSimilarity`).
    """

    ngram: int = 3
    """Length of the token sequences that are counted; a shorter program is one sequence."""

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise ValueError(f"ngram={self.ngram}: expected >= 1")

    def __call__(self, code: str, other: str) -> float:
        """1 for programs equal up to names, strings, comments and layout; 0 if one of them holds no token."""
        one, two = _ngram_counts(code, self.ngram), _ngram_counts(other, self.ngram)
        if not one.square or not two.square:
            return 0.0
        places = two.keys.searchsorted(one.keys)
        is_shared = two.keys.take(places, mode="clip") == one.keys
        dot = int(one.counts[is_shared] @ two.counts[places[is_shared]])
        return min(1.0, dot / math.sqrt(one.square * two.square))


class _NgramCounts(NamedTuple):
    """How often a program holds each n-gram: their hashes in order, their counts, and the sum of squares of these."""

    keys: "NDArray[np.uint64]"
    counts: "NDArray[np.int64]"
    square: int


@lru_cache(maxsize=512)  # the programs of some groups; one of 2 KB takes about 8 KB here
def _ngram_counts(code: str, ngram: int) -> _NgramCounts:
    """Counts of the program's n-grams; of a shorter program, all of it is one."""
    hashes = np.frombuffer(b"".join(map(_Hashes().__getitem__, tokens_of(code))), np.uint64)
    length = min(ngram, len(hashes))
    num_ngrams = len(hashes) - length + 1
    keys = hashes[:num_ngrams]
    for place in range(1, length):
        keys = keys * _MULTIPLIER + hashes[place : place + num_ngrams]  # modulo 2^64
    keys, counts = np.unique(keys, return_counts=True)
    return _NgramCounts(keys, counts, int(counts @ counts))


def tokens_of(code: str) -> list[str]:
    """The tokens of a program without comments and layout; the last is empty.

    An attribute is one token with its dot, an import statement is one token as a whole.
    """
    return _TOKEN.findall(code)


class _Hashes(dict[str, bytes]):
    """What each token of one program adds to the sequence of hashes that is compared, 8 bytes a normalised token."""

    def __init__(self) -> None:
        super().__init__({"": b"", ";": b""})
        self._num_own_names = 0

    def __missing__(self, token: str) -> bytes:
        self[token] = hashes = self._hashes(token)
        return hashes

    def _hashes(self, token: str) -> bytes:
        """Of a token that the program has not had before."""
        if token.isidentifier():
            if token in _KEPT_NAMES:
                return _hash(token)
            self._num_own_names += 1
            return _hash(f"${self._num_own_names}")
        if token[-1] in "\"'" and len(token) > 1:
            return _hash(_STRING)
        if token[0] != "." and "import" in token:
            return self._imported(token)
        return _hash_apart(token)

    def _imported(self, statement: str) -> bytes:
        """Of an import statement, whose names are kept from here on."""
        tokens = [token for token in _TOKEN_OF_IMPORT.findall(statement) if token]
        self.update({token: _hash(token) for token in tokens if token.isidentifier()})
        return b"".join(map(_hash_apart, tokens))


def _hash_apart(token: str) -> bytes:
    """The dot and the name of an attribute have a hash each."""
    name = token[1:].lstrip()
    return _hash(".") + _hash(name) if token[0] == "." and name.isidentifier() else _hash(token)


@lru_cache(maxsize=4096)
def _hash(token: str) -> bytes:
    return hash(token).to_bytes(8, "little", signed=True)
