"""What a number depends on besides the weights, and a hash of it to stand beside the number."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from turnwise.types import Problem

VERSION = 1
"""Of the way in which problems become a number; it grows with every change of the code that may change one."""
NUM_DIGITS = 12
"""Hexadecimal digits of a hash: 48 bits, which a figure of metrics.jsonl holds exactly."""


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """Problems, prompts, tool, limits, sampling and grader of an evaluation, as plain values; not the weights.

    Nor what belongs to the model, its tokenizer and its own chat template: the same protocol serves several models.
    """

    content: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits: equal where two evaluations asked the same questions in the same way."""
        text = json.dumps({"version": VERSION, **self.content}, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:NUM_DIGITS]


def problems_digest(problems: Sequence[Problem]) -> str:
    """A hash of the problems in their order, with all that they hold: prompts, gold answers, sources, tests."""
    rows = [asdict(problem) for problem in problems]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:NUM_DIGITS]
