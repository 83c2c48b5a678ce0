"""Ranges of the hyper-parameters that estimators share."""

import math


def check_discount(discount: float) -> None:
    """Raises ValueError unless `discount` lies in [0, 1]."""
    if not 0 <= discount <= 1:
        raise ValueError(f"discount={discount}: expected 0 to 1")


def check_eps(eps: float) -> None:
    """Raises ValueError unless `eps`, which is added to a standard deviation, lies in [0, 1)."""
    if not 0 <= eps < 1:
        raise ValueError(f"eps={eps}: expected at least 0 and less than 1")


def check_weight(name: str, weight: float) -> None:
    """Raises ValueError unless `weight`, the field called `name`, is finite and not negative."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"{name}={weight}: expected at least 0 and finite")
