"""How far the sampler and the trainer disagree about the tokens that were sampled, in a step and turn by turn."""

import torch
from torch import Tensor

from turnwise.core.kl import kl_k3
from turnwise.core.ratios import bounded
from turnwise.core.segments import num_segments_of, segment_sum


def mismatch_figures(
    *, behaviour_logprobs_N: Tensor, trainer_logprobs_N: Tensor, turn_index_N: Tensor, sequence_index_N: Tensor
) -> dict[str, float]:
    """Figures of a step from the ratios `rho = trainer / behaviour` of its loss tokens.

    Where both are the same policy, every deviation is the engine's: other kernels, another precision, stale weights.

    - `mismatch/kl`: KL(behaviour || trainer), k3, nats a token
    - `mismatch/ratio_mean`, `mismatch/ratio_p01`, `_p50`, `_p99`: of rho; the percentiles by nearest rank
    - `mismatch/log_ratio_max`: the largest `|log rho|`
    - `mismatch/ess`: the effective sample size of the tokens weighted by rho, as a share of their number
    - `mismatch/ess_sequence`: that of the sequences, each weighted by the product over its tokens
    - `mismatch/kl_turn_1`, `mismatch/ratio_p99_turn_1`, `mismatch/ess_turn_1`, ...: the same for the tokens of the
      first turns, and so on for every turn that occurs

    The cost is linear in N. Without a loss token nothing disagrees: divergences are 0, ratios and shares 1.

    Args:
        behaviour_logprobs_N: Log-probs of the loss tokens as the engine recorded them.
        trainer_logprobs_N: Log-probs as the trainer computes them.
        turn_index_N: Turn of each token in its sequence, int64 from 0.
        sequence_index_N: Sequence of each token, int64.

    Raises:
        ValueError: The tensors differ in shape.
    """
    tensors = (behaviour_logprobs_N, trainer_logprobs_N, turn_index_N, sequence_index_N)
    if len({tuple(tensor.shape) for tensor in tensors}) > 1:
        raise ValueError(f"expected tensors of one shape, got {[tuple(tensor.shape) for tensor in tensors]}")
    log_ratio_N = trainer_logprobs_N.double() - behaviour_logprobs_N.double()
    if not log_ratio_N.numel():
        log_ratio_N, sequence_index_N = log_ratio_N.new_zeros(1), sequence_index_N.new_zeros(1)
    sequence_N = sequence_index_N.unique(return_inverse=True)[1]
    figures = {
        **_of_tokens(log_ratio_N),
        "ratio_mean": bounded(log_ratio_N).exp().mean().item(),
        "ratio_p01": _ratio_percentile(log_ratio_N, 1),
        "ratio_p50": _ratio_percentile(log_ratio_N, 50),
        "log_ratio_max": log_ratio_N.abs().max().item(),
        "ess_sequence": effective_share(segment_sum(log_ratio_N, sequence_N, num_segments_of(sequence_N))),
    }
    turns, sizes = turn_index_N.unique(return_counts=True)
    tokens_of_turns = log_ratio_N[turn_index_N.argsort(stable=True)].split(sizes.tolist())
    for turn, tokens in zip(turns.tolist(), tokens_of_turns, strict=True):
        figures |= {f"{name}_turn_{turn + 1}": figure for name, figure in _of_tokens(tokens).items()}
    return {f"mismatch/{name}": figure for name, figure in figures.items()}


def effective_share(log_weights_N: Tensor) -> float:
    """Effective sample size of weighted samples as a share of their number, `(sum w)^2 / (n sum w^2)`, in (0, 1].

    Kish's formula: 1 where all weights are equal, `1 / n` where one outweighs all others.

    Args:
        log_weights_N: Logarithms of the weights, at least one; a constant added to all changes nothing.
    """
    weights_N = (log_weights_N - log_weights_N.max()).exp()
    return (weights_N.sum().square() / (weights_N.numel() * weights_N.square().sum())).clamp(max=1).item()


def _of_tokens(log_ratio_N: Tensor) -> dict[str, float]:
    return {
        "kl": kl_k3(torch.zeros_like(log_ratio_N), log_ratio_N).mean().item(),
        "ratio_p99": _ratio_percentile(log_ratio_N, 99),
        "ess": effective_share(log_ratio_N),
    }


def _ratio_percentile(log_ratio_N: Tensor, percent: int) -> float:
    """The smallest ratio that at least `percent` of the tokens do not exceed."""
    rank = -(-percent * log_ratio_N.numel() // 100)
    return bounded(log_ratio_N.kthvalue(rank).values).exp().item()
