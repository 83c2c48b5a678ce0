import math
import time

import pytest
import torch

from turnwise.core.mismatch import effective_share, mismatch_figures


def figures(ratios: list[float], turns: list[int], sequences: list[int]) -> dict[str, float]:
    behaviour = -torch.arange(1.0, len(ratios) + 1)
    return mismatch_figures(
        behaviour_logprobs_N=behaviour,
        trainer_logprobs_N=behaviour.double() + torch.tensor(ratios, dtype=torch.float64).log(),
        turn_index_N=torch.tensor(turns),
        sequence_index_N=torch.tensor(sequences),
    )


def test_by_hand():
    # Sequence 0: ratio 2 in its first turn, 1/2 and 1 in its second; sequence 3: ratio 4 in its first turn.
    found = figures([2.0, 0.5, 1.0, 4.0], turns=[0, 1, 1, 0], sequences=[0, 0, 0, 3])
    # k3 = rho - 1 - log rho: 2 -> .306853, 1/2 -> .193147, 1 -> 0, 4 -> 1.613706
    kl = {2.0: 1 - math.log(2), 0.5: -0.5 + math.log(2), 1.0: 0.0, 4.0: 3 - math.log(4)}
    assert found == pytest.approx(
        {
            "mismatch/kl": (kl[2.0] + kl[0.5] + kl[4.0]) / 4,
            "mismatch/ratio_mean": 7.5 / 4,
            "mismatch/ratio_p01": 0.5,
            "mismatch/ratio_p50": 1.0,  # rank 2 of 1/2, 1, 2, 4
            "mismatch/ratio_p99": 4.0,
            "mismatch/log_ratio_max": math.log(4),
            "mismatch/ess": 7.5**2 / (4 * (4 + 0.25 + 1 + 16)),
            "mismatch/ess_sequence": 25 / (2 * 17),  # products 2 * 1/2 * 1 = 1 and 4: (1 + 4)^2 / (2 (1 + 16))
            "mismatch/kl_turn_1": (kl[2.0] + kl[4.0]) / 2,
            "mismatch/ratio_p99_turn_1": 4.0,
            "mismatch/ess_turn_1": 36 / (2 * 20),
            "mismatch/kl_turn_2": kl[0.5] / 2,
            "mismatch/ratio_p99_turn_2": 1.0,
            "mismatch/ess_turn_2": 1.5**2 / (2 * 1.25),
        }
    )


@pytest.mark.parametrize(("num_tokens", "ranks"), [(1, (1, 1, 1)), (100, (1, 50, 99)), (250, (3, 125, 248))])
def test_percentiles_are_by_nearest_rank(num_tokens: int, ranks: tuple[int, int, int]):
    # The ratio of rank r is r: of 250, 1% is 2.5 tokens, so the third is the first that 1% of them do not exceed.
    order = torch.randperm(num_tokens, generator=torch.Generator().manual_seed(0)).tolist()
    found = figures([float(r + 1) for r in order], [0] * num_tokens, order)
    assert [found[f"mismatch/ratio_{p}"] for p in ("p01", "p50", "p99")] == pytest.approx(ranks)


def test_only_turns_that_occur_have_figures():
    found = figures([1.0, 2.0], turns=[2, 0], sequences=[0, 0])
    assert {name for name in found if "_turn_" in name} == {
        f"mismatch/{name}_turn_{turn}" for name in ("kl", "ratio_p99", "ess") for turn in (1, 3)
    }


def test_agreement_and_the_empty_step():
    agreed = {"kl": 0, "ratio_mean": 1, "ratio_p01": 1, "ratio_p50": 1, "ratio_p99": 1, "log_ratio_max": 0}
    agreed |= {"ess": 1, "ess_sequence": 1}
    first_turn = {"kl_turn_1": 0, "ratio_p99_turn_1": 1, "ess_turn_1": 1}
    assert figures([1.0] * 3, [0] * 3, [0, 0, 1]) == {f"mismatch/{k}": v for k, v in (agreed | first_turn).items()}
    nothing = torch.zeros(0)
    assert mismatch_figures(
        behaviour_logprobs_N=nothing,
        trainer_logprobs_N=nothing,
        turn_index_N=nothing.long(),
        sequence_index_N=nothing.long(),
    ) == {f"mismatch/{k}": v for k, v in agreed.items()}


@pytest.mark.parametrize("log_ratio", [800.0, -800.0])
def test_every_figure_is_finite_however_far_apart_the_two_are(log_ratio: float):
    behaviour = torch.full((1000,), -1000.0)
    index = torch.arange(1000) // 500
    found = mismatch_figures(
        behaviour_logprobs_N=behaviour,
        trainer_logprobs_N=behaviour + log_ratio * (index == 0),
        turn_index_N=index,
        sequence_index_N=index,
    )
    assert all(math.isfinite(figure) for figure in found.values())
    assert found["mismatch/log_ratio_max"] == 800
    assert found["mismatch/ess"] == pytest.approx(0.5)  # 500 tokens outweigh the other 500
    assert found["mismatch/ess_sequence"] == pytest.approx(0.5)


def test_the_effective_share_is_that_of_equal_weights_or_of_the_heaviest():
    assert effective_share(torch.full((4,), 300.0)) == 1
    assert effective_share(torch.tensor([300.0, 0, 0, 0])) == pytest.approx(1 / 4)
    assert effective_share(torch.tensor([3.0, 1.0]).log()) == pytest.approx(16 / 20)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape, got \[\(2,\), \(2,\), \(1,\), \(2,\)\]"):
        mismatch_figures(
            behaviour_logprobs_N=torch.zeros(2),
            trainer_logprobs_N=torch.zeros(2),
            turn_index_N=torch.zeros(1).long(),
            sequence_index_N=torch.zeros(2).long(),
        )


def test_a_large_step_takes_no_time_to_speak_of():
    num_tokens = 500_000
    behaviour = -torch.rand(num_tokens)
    started = time.perf_counter()
    mismatch_figures(
        behaviour_logprobs_N=behaviour,
        trainer_logprobs_N=behaviour + 0.01 * torch.randn(num_tokens),
        turn_index_N=torch.arange(num_tokens) % 4000 // 1000,
        sequence_index_N=torch.arange(num_tokens) // 4000,
    )
    assert time.perf_counter() - started < 2.0
