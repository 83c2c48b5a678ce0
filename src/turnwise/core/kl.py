"""Estimators of KL(sampled || other) from tokens that were drawn from `sampled`.

With `d = log other(y) - log sampled(y)` of a drawn token y, each function returns one estimate a token; their mean
estimates the divergence (J. Schulman, "Approximating KL divergence", 2020).

A loss that adds an estimate differentiates it with the drawn tokens held fixed, and that is another matter than
estimating (arXiv 2506.09477). For tokens drawn from the policy, `sampled`, the expected gradients are:

| estimate | gradient of a token | its expectation |
|---|---|---|
| k1 | `grad log policy(y)` | 0: noise without any pull |
| k2 | `-d grad log policy(y)` | that of KL(policy || reference) |
| k3 | `(1 - e^d) grad log policy(y)` | that of KL(reference || policy) |

The last two agree to first order in d. Off-policy, where the tokens come from a policy of a few steps ago, none of the
three expectations is exact.
"""

from enum import StrEnum

from torch import Tensor

from turnwise.core.ratios import bounded


class KlEstimator(StrEnum):
    """Which estimate a loss adds."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


def kl_estimate(estimator: KlEstimator, sampled_logprobs_N: Tensor, other_logprobs_N: Tensor) -> Tensor:
    """One estimate of KL(sampled || other) a token, `[N]`, in nats.

    Args:
        estimator: Which of the three.
        sampled_logprobs_N: Log-probs of the drawn tokens under the policy that drew them.
        other_logprobs_N: Those of the same tokens under the other policy, `[N]`.
    """
    match estimator:
        case KlEstimator.k1:
            return kl_k1(sampled_logprobs_N, other_logprobs_N)
        case KlEstimator.k2:
            return kl_k2(sampled_logprobs_N, other_logprobs_N)
        case KlEstimator.k3:
            return kl_k3(sampled_logprobs_N, other_logprobs_N)


def kl_k1(sampled_logprobs_N: Tensor, other_logprobs_N: Tensor) -> Tensor:
    """`-d`: unbiased, of either sign, high variance."""
    return sampled_logprobs_N - other_logprobs_N


def kl_k2(sampled_logprobs_N: Tensor, other_logprobs_N: Tensor) -> Tensor:
    """`d^2 / 2`: never negative, low variance, biased; exact to second order where the two are close."""
    return (other_logprobs_N - sampled_logprobs_N).square() / 2


def kl_k3(sampled_logprobs_N: Tensor, other_logprobs_N: Tensor) -> Tensor:
    """`e^d - 1 - d`: never negative, unbiased, low variance where the two are close; d is held within 20 of 0."""
    d_N = bounded(other_logprobs_N - sampled_logprobs_N)
    return d_N.expm1() - d_N
