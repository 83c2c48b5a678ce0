"""The unbiased estimate of pass@k."""

import torch
from torch import Tensor


def pass_at_k(num_samples_P: Tensor, num_correct_P: Tensor, k: int) -> Tensor:
    """Probability that at least one of k samples, drawn without replacement from those at hand, is correct.

    `1 - C(n - c, k) / C(n, k)` (arXiv 2107.03374) as `1 - prod_{i < k} (n - c - i) / (n - i)`: no large binomials.

    Args:
        num_samples_P: Samples n of each problem, integer.
        num_correct_P: Correct ones c among them, integer.
        k: Samples drawn; at most the smallest n.

    Returns:
        float64 `[P]`.

    Raises:
        ValueError: `k` is not in `[1, min n]`, or `c` is not in `[0, n]`.
    """
    if num_samples_P.shape != num_correct_P.shape:
        raise ValueError(f"{tuple(num_samples_P.shape)} samples but {tuple(num_correct_P.shape)} correct counts")
    if bool(((num_correct_P < 0) | (num_correct_P > num_samples_P)).any()):
        raise ValueError(f"num_correct_P={num_correct_P.tolist()}: expected 0 to {num_samples_P.tolist()}")
    if k < 1 or bool((num_samples_P < k).any()):
        raise ValueError(f"k={k}: expected 1 to the fewest samples of a problem, {num_samples_P.tolist()}")
    drawn = torch.arange(k, device=num_samples_P.device)
    samples, wrong = num_samples_P.unsqueeze(-1) - drawn, (num_samples_P - num_correct_P).unsqueeze(-1) - drawn
    # Where fewer than k samples are wrong, a draw must hold a correct one: a factor, and so the product, is exactly 0.
    return 1 - (wrong.double() / samples).prod(-1)
