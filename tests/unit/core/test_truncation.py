import math
from typing import Any

import pytest
import torch

from turnwise.core.truncation import is_kept, truncates
from turnwise.types import Sampling

LOGITS = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]]).log()


def kept(**options: float) -> list[list[int]]:
    return [row.nonzero().squeeze(1).tolist() for row in is_kept(LOGITS, **options)]  # type: ignore[arg-type]


def test_without_limits_every_token_is_kept() -> None:
    assert kept() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert not truncates(top_k=0, top_p=1.0)
    assert truncates(top_k=1, top_p=1.0)
    assert truncates(top_k=0, top_p=0.9)


def test_top_k_keeps_the_likeliest_and_what_ties_with_the_last_of_them() -> None:
    assert kept(top_k=2) == [[0, 2], [0, 1, 2, 3]]
    assert kept(top_k=9) == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    assert kept(top_p=0.3) == [[0], [0, 1]]  # 0.4 reaches 0.3; 0.25 does not, 0.5 does
    assert kept(top_p=0.65) == [[0, 2], [0, 1, 2]]  # 0.4 + 0.3
    assert kept(top_p=0.95) == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert kept(top_p=1e-9) == [[0], [0]]


def test_top_p_is_of_what_top_k_leaves() -> None:
    # Of 0.4, 0.3, 0.2 the first two are 0.7 / 0.9 = 0.78; of the whole they would be 0.7.
    assert kept(top_k=3, top_p=0.75)[0] == [0, 2]
    assert kept(top_p=0.75)[0] == [0, 2, 3]


def test_values_that_leave_nothing_are_refused() -> None:
    refused: list[tuple[str, Any]] = [("top_k", -1), ("top_p", 0.0), ("top_p", 1.1), ("top_p", math.nan)]
    for name, value in refused:
        with pytest.raises(ValueError, match=f"{name}="):
            is_kept(LOGITS, **{name: value})
        with pytest.raises(ValueError, match=f"{name}="):
            Sampling(temperature=1.0, max_new_tokens=1, seed=0, **{name: value})
