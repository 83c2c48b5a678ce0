"""Likeness of programs by their token n-grams: no model, no download."""

import builtins
import keyword
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

_KEPT_NAMES = frozenset(keyword.kwlist) | frozenset(dir(builtins))
_IMPORTS = ("import", "from")
_STATEMENT_ENDS = ("\n", ";", "")
_DEPTHS = {**dict.fromkeys("([{", 1), **dict.fromkeys(")]}", -1)}
_QUOTES = ("'", '"')
_STRING = '""'
_TOKEN = re.compile(
    r"""(?: [^\S\n]++ | \#[^\n]*+ | \\\r?\n )*+   # layout, comments, continued lines: in one piece
        ( [^\W\d]\w*+(?![\"\'])                  # a name that is no prefix of a string
        | [(),\]\[{}\n] | :=?
        | [rRbBuUfF]{0,2} (?: \"{3} (?:[^\\]|\\.)*? \"{3} | \'{3} (?:[^\\]|\\.)*? \'{3}
                            | \" (?:[^\"\\\n]|\\.)* \"   | \' (?:[^\'\\\n]|\\.)* \' )
        | 0[xXoObB][\da-fA-F_]+ | (?: \d[\d_]*\.?[\d_]* | \.\d[\d_]* ) (?:[eE][-+]?\d[\d_]*)? [jJ]?
        | \w+
        | \*\*=? | //=? | >>=? | <<=? | -> | \.{3} | [-+*/%&|^@=<>!]=
        | [^\s\w] | \Z )""",
    re.VERBOSE | re.DOTALL,
)
"""One token behind what lies between tokens. Total: any text is tokens, whether it is a program or not."""


@dataclass(frozen=True, kw_only=True)
class LexicalSimilarity:
    """Cosine of the token n-gram counts of two programs, in [0, 1].

    Layout and comments are dropped. Names that the program makes up are renamed in order of appearance, so that the
    choice of names does not count; keywords, builtins, attributes and imported names are kept. Numbers are kept: they
    are the operands of the problem. Strings are one and the same token: most of them label the output.

    The default similarity of shaping; the paper compares text embeddings (see `EmbeddingSimilarity`).
    """

    ngram: int = 3
    """Length of the token sequences that are counted; a shorter program is one sequence."""

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise ValueError(f"ngram={self.ngram}: expected >= 1")

    def __call__(self, code: str, other: str) -> float:
        """1 for programs equal up to names, strings, comments and layout; 0 if one of them holds no token."""
        counts, square = _ngram_counts(code, self.ngram)
        other_counts, other_square = _ngram_counts(other, self.ngram)
        if not counts or not other_counts:
            return 0.0
        dot = sum(counts[ngram] * other_counts[ngram] for ngram in counts.keys() & other_counts.keys())
        return min(1.0, dot / math.sqrt(square * other_square))


@lru_cache(maxsize=512)  # the programs of some groups; one of 2 KB takes about 16 KB here
def _ngram_counts(code: str, ngram: int) -> tuple[Counter[str], int]:
    """Counts of the program's n-grams, and the sum of their squares."""
    counts = Counter(ngrams(code, ngram))
    return counts, sum(count * count for count in counts.values())


def ngrams(code: str, length: int) -> Iterator[str]:
    """The normalised token sequences of `length` in a program, a token a line; of a shorter program, all of it."""
    tokens = _normalised(tokens_of(code))
    length = max(1, min(length, len(tokens)))
    return map("\n".join, zip(*(tokens[start:] for start in range(length)), strict=False))  # strings keep their hash


def tokens_of(code: str) -> list[str]:
    """The tokens of a program, line ends among them, without comments and layout; the last may be empty."""
    return _TOKEN.findall(code)


def _normalised(tokens: Iterable[str]) -> list[str]:
    """The tokens without statement ends; strings are one token, the program's own names are numbered."""
    kept: list[str] = []
    names: dict[str, str] = {}  # what each of them becomes
    num_own, depth, previous, in_import = 0, 0, "\n", False
    for token in tokens:
        if token in _STATEMENT_ENDS:
            if token == ";" or depth <= 0:  # a line that ends in brackets goes on
                previous = "\n"
            continue
        if previous == "\n":
            in_import = token in _IMPORTS
        if token.isidentifier():
            if token in _KEPT_NAMES or previous == ".":
                kept.append(token)
            elif in_import:
                names[token] = token
                kept.append(token)
            elif (shown := names.get(token)) is not None:
                kept.append(shown)
            else:
                names[token] = f"${num_own}"
                num_own += 1
                kept.append(names[token])
        elif token[-1] in _QUOTES and len(token) > 1:
            kept.append(_STRING)
        else:
            depth += _DEPTHS.get(token, 0)
            kept.append(token)
        previous = token
    return kept
