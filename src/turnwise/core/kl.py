"""Estimators of KL(sampled || other) from tokens that were drawn from `sampled`.

With `d = log other(y) - log sampled(y)` of a drawn token y, each function returns one estimate a token; their mean
estimates the divergence (J. Schulman, "Approximating KL divergence", 2020).
"""

from torch import Tensor


def kl_k1(sampled_logprobs_N: Tensor, other_logprobs_N: Tensor) -> Tensor:
    """`-d`: unbiased, of either sign, high variance."""
    return sampled_logprobs_N - other_logprobs_N


def kl_k2(sampled_logprobs_N: Tensor, other_logprobs_N: Tensor) -> Tensor:
    """`d^2 / 2`: never negative, low variance, biased; exact to second order where the two are close."""
    return (other_logprobs_N - sampled_logprobs_N).square() / 2


def kl_k3(sampled_logprobs_N: Tensor, other_logprobs_N: Tensor) -> Tensor:
    """`e^d - 1 - d`: never negative, unbiased, low variance where the two are close."""
    d_N = other_logprobs_N - sampled_logprobs_N
    return d_N.expm1() - d_N
