"""Likeness of programs by their syntax trees: what is done, whatever it is done with."""

import ast
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, kw_only=True)
class StructureSimilarity:
    """Cosine of the counts of subtrees of height one in two programs' syntax trees, in [0, 1].

    A subtree is a node with its children: a product of a name and a call, a loop over a call with two statements.
    Names, numbers, strings and layout do not count; operators, calls and statements do. A program that Python cannot
    parse has no tree and resembles itself only.
    """

    def __call__(self, code: str, other: str) -> float:
        """1 for programs of equal structure; 0 if one of them is blank or no program."""
        if not code.strip() or not other.strip():
            return 0.0
        if code == other:
            return 1.0
        counts, square = _subtree_counts(code)
        other_counts, other_square = _subtree_counts(other)
        if not counts or not other_counts:
            return 0.0
        dot = sum(counts[subtree] * other_counts[subtree] for subtree in counts.keys() & other_counts.keys())
        return min(1.0, dot / math.sqrt(square * other_square))


@lru_cache(maxsize=512)  # the programs of some groups
def _subtree_counts(code: str) -> tuple[Counter[str], int]:
    """Counts of the program's subtrees, and the sum of their squares; empty if it is no program."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two for hostile nesting
        return Counter(), 0
    counts = Counter(_subtrees(tree))
    return counts, sum(count * count for count in counts.values())


def _subtrees(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        # Whether a name is read or written is said by its parent; a leaf is part of its parent's subtree.
        children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context)]
        if children:
            yield f"{type(node).__name__}({' '.join(type(child).__name__ for child in children)})"
