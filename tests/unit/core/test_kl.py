import math

import pytest
import torch

from turnwise.core.kl import kl_k1, kl_k2, kl_k3

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
