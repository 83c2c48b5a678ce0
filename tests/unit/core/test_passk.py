from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnwise.core.passk import pass_at_k


def test_by_hand():
    # n = 4, c = 1: k = 1: 1/4; k = 2: 1 - C(3,2)/C(4,2) = 1 - 3/6; k = 4: certain
    n, c = torch.tensor([4, 4, 4]), torch.tensor([0, 1, 4])
    assert pass_at_k(n, c, 1).tolist() == pytest.approx([0, 0.25, 1])
    assert pass_at_k(n, c, 2).tolist() == pytest.approx([0, 0.5, 1])
    assert pass_at_k(n, c, 4).tolist() == pytest.approx([0, 1, 1])


@given(st.data())
def test_equals_the_binomials(data: st.DataObject):
    n = data.draw(st.integers(1, 200))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    expected = 1 - comb(n - c, k) / comb(n, k)
    assert pass_at_k(torch.tensor([n]), torch.tensor([c]), k).item() == pytest.approx(expected, abs=1e-12)


def test_large_counts_do_not_overflow():
    # C(10000, 5000) has 3,008 digits; with one correct sample pass@k is k / n
    assert pass_at_k(torch.tensor([10_000]), torch.tensor([1]), 5_000).item() == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("k", [0, 3])
def test_k_must_fit_the_fewest_samples(k: int):
    with pytest.raises(ValueError, match=rf"k={k}: expected 1 to the fewest samples of a problem, \[4, 2\]"):
        pass_at_k(torch.tensor([4, 2]), torch.tensor([0, 0]), k)


@pytest.mark.parametrize("c", [-1, 5])
def test_correct_counts_must_fit(c: int):
    with pytest.raises(ValueError, match=rf"num_correct_P=\[{c}\]: expected 0 to \[4\]"):
        pass_at_k(torch.tensor([4]), torch.tensor([c]), 1)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2,\) samples but \(1,\) correct"):
        pass_at_k(torch.tensor([4, 4]), torch.tensor([1]), 1)
