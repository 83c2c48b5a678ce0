import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import sampling
from turnwise.engine.sampling import draw_uniforms, sample_tokens


def draw(logits: Tensor, uniforms: list[float], temperature: float = 1.0, **truncation: Any) -> tuple[Tensor, Tensor]:
    """One token a row, all rows sampled in the same way."""
    samplings = [sampling(temperature=temperature, **truncation)] * len(uniforms)
    return sample_tokens(logits, samplings, torch.tensor(uniforms, dtype=torch.float64))


def test_a_grid_of_uniforms_gives_the_exact_frequencies() -> None:
    # Probabilities 1/2, 1/4, 1/8, 1/8: of the 16 uniforms (i + 0.5) / 16 they take 8, 4, 2 and 2.
    logits = torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8]]).log().expand(16, 4)
    tokens, logprobs = draw(logits, [(i + 0.5) / 16 for i in range(16)])
    assert tokens.tolist() == [0] * 8 + [1] * 4 + [2] * 2 + [3] * 2
    expected = torch.tensor([-math.log(2)] * 8 + [-math.log(4)] * 4 + [-math.log(8)] * 4)
    torch.testing.assert_close(logprobs, expected)


def test_temperature_half_squares_the_probabilities() -> None:
    # p = 3/4, 1/4 at temperature 1; p^2 = 9/16, 1/16 normalise to 0.9, 0.1 at temperature 1/2.
    logits = torch.tensor([[3.0, 1.0]]).log().expand(2, 2)
    tokens, logprobs = draw(logits, [0.89, 0.91], temperature=0.5)
    assert tokens.tolist() == [0, 1]
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.9), math.log(0.1)]))


def test_each_row_has_its_own_temperature_and_zero_takes_the_likeliest_scored_at_one() -> None:
    logits = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log()
    samplings = [sampling(temperature=0.0), sampling(temperature=1.0)]
    tokens, logprobs = sample_tokens(logits, samplings, torch.tensor([0.0, 0.0], dtype=torch.float64))
    assert tokens.tolist() == [1, 0]  # uniform 0 draws the first token, greedy the second
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.75), math.log(0.25)]))


def test_top_k_leaves_the_likeliest_tokens_and_scores_them_among_themselves() -> None:
    # Of 1/2, 1/4, 1/8, 1/8 top-k 2 leaves 1/2 and 1/4, which become 2/3 and 1/3.
    logits = torch.tensor([[1 / 8, 1 / 2, 1 / 8, 1 / 4]]).log().expand(3, 4)
    tokens, logprobs = draw(logits, [0.0, 0.66, 0.67], top_k=2)
    assert tokens.tolist() == [1, 1, 3]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([2 / 3, 2 / 3, 1 / 3]))


def test_top_p_is_measured_at_the_sampling_temperature() -> None:
    # 3/4 and 1/4 become 0.9 and 0.1 at temperature 1/2: 0.9 reaches top-p 0.8, where 3/4 would not have.
    logits = torch.tensor([[3.0, 1.0]]).log().expand(2, 2)
    tokens, logprobs = draw(logits, [0.5, 0.99], temperature=0.5, top_p=0.8)
    assert tokens.tolist() == [0, 0]
    torch.testing.assert_close(logprobs, torch.zeros(2))
    assert draw(logits, [0.5, 0.99], top_p=0.8)[0].tolist() == [0, 1]


def test_rows_are_truncated_each_in_its_own_way_and_greedy_ones_not_at_all() -> None:
    # Row 0: all of 1/2, 1/4, 1/4. Row 1: top-k 1. Row 2: greedy, scored among all. Row 3: top-k 1 again.
    logits = torch.tensor([[1 / 4, 1 / 2, 1 / 4]]).log().expand(4, 3)
    samplings = [sampling(), sampling(top_k=1), sampling(temperature=0.0, top_k=1), sampling(top_k=1)]
    tokens, logprobs = sample_tokens(logits, samplings, torch.full((4,), 0.9, dtype=torch.float64))
    assert tokens.tolist() == [2, 1, 1, 1]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([1 / 4, 1.0, 1 / 2, 1.0]))


def test_impossible_tokens_are_never_drawn_at_the_edges_of_the_uniform() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(2, 3)
    assert draw(logits, [0.0, 1 - 2**-53])[0].tolist() == [1, 1]


@pytest.mark.parametrize("vocab_size", [5, 8191, 8192, 8193, 8500])
def test_vocabularies_of_every_size_are_inverted_as_by_the_plain_running_sum(vocab_size: int) -> None:
    logits = 3 * torch.randn(64, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    logits[:, 1::3] = -math.inf
    uniforms = [0.0, *draw_uniforms(seed=1, count=62).tolist(), 1 - 2**-53]
    tokens, logprobs = draw(logits, uniforms)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    below = [int((row < uniform * row[-1]).sum()) for row, uniform in zip(cumulative, uniforms, strict=True)]
    assert tokens.tolist() == below
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(1))


@pytest.mark.parametrize("vocab_size", [100, 8193])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_rows_that_are_not_finite_give_log_probs_that_are_not_and_leave_the_others_alone(
    vocab_size: int, broken: float
) -> None:
    logits = torch.zeros(2, vocab_size)
    logits[0, 3] = broken
    tokens, logprobs = draw(logits, [0.5, 0.5])
    assert not logprobs[0].isfinite() and 0 <= tokens[0] < vocab_size  # noqa: PT018
    assert (tokens[1], logprobs[1].item()) == (vocab_size // 2, pytest.approx(-math.log(vocab_size)))


def test_what_is_sampled_from_is_left_as_it_was() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    draw(logits, [0.5], top_k=1)
    assert logits.tolist() == [[1.0, 2.0, 3.0]]


def test_drawn_frequencies_fit_the_distribution() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15])
    draws = 20_000
    tokens, _ = draw(probabilities.log().expand(draws, 5), draw_uniforms(seed=7, count=draws).tolist())
    expected = probabilities * draws
    chi_square = ((tokens.bincount(minlength=5) - expected) ** 2 / expected).sum().item()
    assert chi_square < 18.47  # the 0.999 quantile for 4 degrees of freedom


def test_nothing_to_draw_is_no_error() -> None:
    tokens, logprobs = draw(torch.zeros(0, 3), [])
    assert (tokens.tolist(), logprobs.tolist()) == ([], [])


def test_uniforms_are_a_function_of_the_seed() -> None:
    assert draw_uniforms(3, 8).equal(draw_uniforms(3, 8))
    assert not draw_uniforms(3, 8).equal(draw_uniforms(4, 8))
    assert draw_uniforms(2**63 - 1, 1).dtype == torch.float64
