import math
from collections.abc import Callable

import pytest
import torch

from turnwise.core.kl import KlEstimator, kl_estimate, kl_k1, kl_k2, kl_k3

P, Q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)


def test_by_hand():
    # sampled 0.5, other 0.25: d = log(1/2) = -0.693147
    sampled, other = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_k1(sampled, other).item() == pytest.approx(0.693147)
    assert kl_k2(sampled, other).item() == pytest.approx(0.2402265)  # 0.693147^2 / 2
    assert kl_k3(sampled, other).item() == pytest.approx(0.193147)  # 0.5 - 1 + 0.693147


def test_k1_and_k3_are_unbiased_in_the_named_direction():
    # The expectation over tokens drawn from P is KL(P || Q) = 0.5 log(5/4) + 0.3 log(3/4) = 0.025267
    for estimator in (kl_k1, kl_k3):
        assert (P * estimator(P.log(), Q.log())).sum().item() == pytest.approx(0.025267, abs=1e-6)
    # the other direction differs: 0.4 log(4/5) + 0.4 log(4/3) = 0.025815
    assert (Q * kl_k3(Q.log(), P.log())).sum().item() == pytest.approx(0.025815, abs=1e-6)


def test_k2_is_close_and_biased():
    # 0.5 * log(4/5)^2 / 2 + 0.3 * log(4/3)^2 / 2 = 0.0124483 + 0.0124144
    assert (P * kl_k2(P.log(), Q.log())).sum().item() == pytest.approx(0.0248627, abs=1e-6)


def test_equal_policies_have_no_divergence():
    for estimator in (kl_k1, kl_k2, kl_k3):
        assert estimator(P.log(), P.log()).tolist() == [0, 0, 0]


def test_k3_keeps_its_digits_where_the_policies_are_close():
    # e^d - 1 - d = d^2/2 + d^3/6 = 5e-13 at d = 1e-6
    d = torch.tensor([1e-6], dtype=torch.float64)
    assert kl_k3(torch.zeros_like(d), d).item() == pytest.approx(5e-13, rel=1e-3)


def expected_gradient(estimator: KlEstimator, logits: torch.Tensor) -> list[float]:
    """Gradient of the estimate as a loss, averaged over tokens drawn from the policy; the draw itself is held fixed."""
    policy = logits.log_softmax(-1)
    loss = (policy.exp().detach() * kl_estimate(estimator, policy, Q.log())).sum()
    return torch.autograd.grad(loss, logits)[0].tolist()


def test_the_gradient_of_each_estimate_as_a_loss_is_that_of_the_divergence_it_is_said_to_be():
    logits = P.log().requires_grad_()
    policy = logits.log_softmax(-1)
    towards_policy = torch.autograd.grad((policy.exp() * (policy - Q.log())).sum(), logits, retain_graph=True)[0]
    towards_reference = torch.autograd.grad((Q * (Q.log() - policy)).sum(), logits)[0]
    # KL(reference || policy) in the logits: p - q = .1, -.1, 0.
    # KL(policy || reference): p (log(p/q) - KL), with KL = .025267: .5 (.223144 - .025267) = .098938 and so on.
    assert towards_reference.tolist() == pytest.approx([0.1, -0.1, 0])
    assert towards_policy.tolist() == pytest.approx([0.098938, -0.093885, -0.005053], abs=1e-6)
    assert expected_gradient(KlEstimator.k1, logits) == pytest.approx([0, 0, 0], abs=1e-12)
    assert expected_gradient(KlEstimator.k2, logits) == pytest.approx(towards_policy.tolist())
    assert expected_gradient(KlEstimator.k3, logits) == pytest.approx(towards_reference.tolist())


def test_the_noise_of_k1_is_the_gradient_of_the_log_prob():
    policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    kl_estimate(KlEstimator.k1, policy, torch.tensor([-0.5, -3.0])).sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == [1, 1]


@pytest.mark.parametrize(("estimator", "function"), [*zip(KlEstimator, (kl_k1, kl_k2, kl_k3), strict=True)])
def test_each_name_is_its_function(estimator: KlEstimator, function: Callable[..., torch.Tensor]):
    assert torch.equal(kl_estimate(estimator, P.log(), Q.log()), function(P.log(), Q.log()))


def test_a_token_that_the_policy_lost_gives_no_infinity():
    policy = torch.tensor([-500.0], requires_grad=True)
    estimate = kl_k3(policy, torch.tensor([-1.0]))
    estimate.sum().backward()
    assert estimate.item() == pytest.approx(math.exp(20), rel=1e-6)
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(-math.exp(20), rel=1e-6)
