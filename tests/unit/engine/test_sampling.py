import math

import torch

from turnwise.engine.sampling import draw_uniforms, sample_tokens


def test_a_grid_of_uniforms_gives_the_exact_frequencies() -> None:
    # Probabilities 1/2, 1/4, 1/8, 1/8: of the 16 uniforms (i + 0.5) / 16 they take 8, 4, 2 and 2.
    logits = torch.tensor([[1 / 2, 1 / 4, 1 / 8, 1 / 8]]).log().expand(16, 4)
    uniforms = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    tokens, logprobs = sample_tokens(logits, torch.ones(16), uniforms)
    assert tokens.tolist() == [0] * 8 + [1] * 4 + [2] * 2 + [3] * 2
    expected = torch.tensor([-math.log(2)] * 8 + [-math.log(4)] * 4 + [-math.log(8)] * 4)
    torch.testing.assert_close(logprobs, expected)


def test_temperature_half_squares_the_probabilities() -> None:
    # p = 3/4, 1/4 at temperature 1; p^2 = 9/16, 1/16 normalise to 0.9, 0.1 at temperature 1/2.
    logits = torch.tensor([[3.0, 1.0]]).log().expand(2, 2)
    tokens, logprobs = sample_tokens(logits, torch.full((2,), 0.5), torch.tensor([0.89, 0.91], dtype=torch.float64))
    assert tokens.tolist() == [0, 1]
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.9), math.log(0.1)]))


def test_each_row_has_its_own_temperature_and_zero_takes_the_likeliest_scored_at_one() -> None:
    logits = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log()
    tokens, logprobs = sample_tokens(logits, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0], dtype=torch.float64))
    assert tokens.tolist() == [1, 0]  # uniform 0 draws the first token, greedy the second
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.75), math.log(0.25)]))


def test_impossible_tokens_are_never_drawn_at_the_edges_of_the_uniform() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(2, 3)
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert sample_tokens(logits, torch.ones(2), edges)[0].tolist() == [1, 1]


def test_drawn_frequencies_fit_the_distribution() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15])
    draws = 20_000
    uniforms = draw_uniforms(seed=7, count=draws)
    tokens, _ = sample_tokens(probabilities.log().expand(draws, 5), torch.ones(draws), uniforms)
    expected = probabilities * draws
    chi_square = ((tokens.bincount(minlength=5) - expected) ** 2 / expected).sum().item()
    assert chi_square < 18.47  # the 0.999 quantile for 4 degrees of freedom


def test_uniforms_are_a_function_of_the_seed() -> None:
    assert draw_uniforms(3, 8).equal(draw_uniforms(3, 8))
    assert not draw_uniforms(3, 8).equal(draw_uniforms(4, 8))
    assert draw_uniforms(2**63 - 1, 1).dtype == torch.float64
