"""How far the sampler and the trainer disagree about the tokens that were sampled."""

from torch import Tensor

from turnwise.core.kl import kl_k3


def mismatch_figures(
    *, behaviour_logprobs_N: Tensor, trainer_logprobs_N: Tensor, turn_index_N: Tensor, sequence_index_N: Tensor
) -> dict[str, float]:
    """Figures of a step."""
    drawn, now = behaviour_logprobs_N.double(), trainer_logprobs_N.double()
    if not drawn.numel():
        return {"mismatch/kl": 0.0, "mismatch/ratio_mean": 1.0}
    return {"mismatch/kl": kl_k3(drawn, now).mean().item(), "mismatch/ratio_mean": (now - drawn).exp().mean().item()}
