"""Ranges of hyper-parameters that several parts have."""

import math
from collections.abc import Iterable

from turnwise.core.group_statistics import StdKind


def check_discount(discount: float) -> None:
    """Raises ValueError unless `discount` lies in [0, 1]."""
    if not 0 <= discount <= 1:
        raise ValueError(f"discount={discount}: expected 0 to 1")


def check_weight(name: str, weight: float) -> None:
    """Raises ValueError unless `weight`, the field called `name`, is finite and not negative."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"{name}={weight}: expected at least 0 and finite")


def check_choice(name: str, choice: str, known: Iterable[str]) -> None:
    """Raises ValueError unless `choice`, the field called `name`, is one of those that are `known`."""
    if choice not in (names := tuple(known)):
        raise ValueError(f"{name}={choice}: expected one of {', '.join(names)}")


def check_scaling(std_kind: StdKind, eps: float) -> None:
    """Raises ValueError unless `std_kind` is known and `eps`, which is added to the std, lies in [0, 1)."""
    check_choice("std_kind", std_kind, StdKind)
    if not 0 <= eps < 1:
        raise ValueError(f"eps={eps}: expected at least 0 and less than 1")
