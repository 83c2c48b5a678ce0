"""Likeness of programs by their token n-grams: no model, no download."""

import builtins
import io
import keyword
import math
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

_KEPT_NAMES = frozenset(keyword.kwlist) | frozenset(dir(builtins))
_STRING = '""'
_LINE_END = "\n"
_STATEMENT_ENDS = (_LINE_END, ";")
_LAYOUT = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
_ROUGH_TOKEN = re.compile(r"\n|\"[^\"\n]*\"|'[^'\n]*'|\w+|\*\*|//|->|[-+*/%&|^<>=!:]=|[^\w\s\\]")


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
        if len(other_counts) < len(counts):
            counts, other_counts = other_counts, counts
        dot = sum(count * other_counts[ngram] for ngram, count in counts.items() if ngram in other_counts)
        return min(1.0, dot / math.sqrt(square * other_square))


@lru_cache(maxsize=512)  # the programs of some groups; one of 2 KB takes about 16 KB here
def _ngram_counts(code: str, ngram: int) -> tuple[Counter[tuple[str, ...]], int]:
    """Counts of the program's n-grams, and the sum of their squares."""
    tokens = tuple(_normalised(_tokens(code)))
    starts = range(max(1, len(tokens) - ngram + 1)) if tokens else ()
    counts = Counter(tokens[start : start + ngram] for start in starts)
    return counts, sum(count * count for count in counts.values())


def _tokens(code: str) -> list[str]:
    """The program's tokens without layout and comments; statements end in a line end."""
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.STRING:
                tokens.append(_STRING)
            elif token.type == tokenize.NEWLINE:
                tokens.append(_LINE_END)
            elif token.type not in _LAYOUT and token.string.strip():
                tokens.append(token.string)
    except (tokenize.TokenError, SyntaxError):  # IndentationError is a SyntaxError
        uncommented = re.sub(r"#[^\n]*", "", code)
        return [_STRING if token[0] in "\"'" else token for token in _ROUGH_TOKEN.findall(uncommented)]
    return tokens


def _normalised(tokens: Iterable[str]) -> Iterator[str]:
    """The tokens without statement ends, the program's own names replaced by their number."""
    numbers: dict[str, str] = {}
    imported: set[str] = set()
    previous, in_import = _LINE_END, False
    for token in tokens:
        if previous in _STATEMENT_ENDS:
            in_import = token in ("import", "from")
        if token.isidentifier() and token not in _KEPT_NAMES and previous != ".":
            if in_import:
                imported.add(token)
            elif token not in imported:
                token = numbers.setdefault(token, f"${len(numbers)}")
        if token not in _STATEMENT_ENDS:
            yield token
        previous = token
