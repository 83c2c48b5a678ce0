from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from turnwise.core.truncation import is_kept
from turnwise.model.token_logprobs import Scoring, token_logprobs

NUM_TOKENS, WIDTH, VOCABULARY = 11, 6, 23


def parts(seed: int = 0, *, bias: bool = False) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    hidden = torch.randn(NUM_TOKENS, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    return head, hidden, torch.randint(VOCABULARY, (NUM_TOKENS,), generator=generator)


def plain(head: nn.Linear, hidden: Tensor, targets: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """The definition, with all logits at once and autograd's own backward pass."""
    logits = head(hidden) / scoring.temperature
    kept = is_kept(logits.detach(), top_k=scoring.top_k, top_p=scoring.top_p)
    kept[torch.arange(len(targets)), targets] = True
    logprobs = logits.masked_fill(~kept, -1e30).log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs.masked_fill(~kept, 0)).sum(-1)
    return logprobs.gather(1, targets[:, None]).squeeze(1), entropy


@pytest.mark.parametrize("chunk", [1, 4, 11, 1000])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7, "temperature": 1.3}])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_the_definition(chunk: int, options: dict[str, Any], bias: bool) -> None:
    scoring = Scoring(chunk=chunk, dtype=torch.float64, **options)
    weights = torch.linspace(-1, 2, NUM_TOKENS, dtype=torch.float64)
    results = []
    for compute in (token_logprobs, plain):
        head, hidden, targets = parts(bias=bias)
        logprobs, entropy = compute(head, hidden, targets, scoring)
        (logprobs * weights + 0.3 * entropy * weights.flip(0)).sum().backward()
        gradients = [hidden.grad, *(parameter.grad for parameter in head.parameters())]
        results.append([logprobs.detach(), entropy.detach(), *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_numerical_gradient_check_of_torch_agrees() -> None:
    head, hidden, targets = parts()
    scoring = Scoring(chunk=4, dtype=torch.float64, temperature=0.8)
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs(_with(head, w), h, targets, scoring), (hidden, head.weight)
    )


def _with(head: nn.Linear, weight: Tensor) -> nn.Linear:
    made = nn.Linear(WIDTH, VOCABULARY, bias=False)
    del made.weight
    made.weight = weight  # type: ignore[assignment]
    return made


def test_a_frozen_head_costs_no_gradient_and_hidden_states_still_get_theirs() -> None:
    head, hidden, targets = parts()
    head.requires_grad_(False)
    token_logprobs(head, hidden, targets, Scoring(chunk=3, dtype=torch.float64))[0].sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0


def test_without_entropies_they_are_zero() -> None:
    head, hidden, targets = parts()
    logprobs, entropy = token_logprobs(head, hidden, targets, Scoring(3, torch.float64, wants_entropy=False))
    assert not entropy.any()
    torch.testing.assert_close(logprobs, plain(head, hidden, targets, Scoring(3, torch.float64))[0])


def test_half_precision_products_give_wide_log_probs() -> None:
    head, hidden, targets = parts()
    exact, _ = plain(head, hidden, targets, Scoring(99, torch.float64))
    found, _ = token_logprobs(head.float(), hidden.detach().float(), targets, Scoring(4, torch.bfloat16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("chunk", [1, 2])
def test_the_gradient_of_a_nearly_certain_token_survives_half_precision(chunk: int) -> None:
    # Logits 4 and -4: 1 - p = 1 / (1 + e^8) = 3.4e-4, and the hidden state's gradient is twice that. In bfloat16 this
    # p is 1.
    head = nn.Linear(1, 2, bias=False)
    head.weight = nn.Parameter(torch.tensor([[1.0], [-1.0]]))
    hidden = torch.tensor([[4.0], [4.0]], requires_grad=True)
    logprobs, _ = token_logprobs(head, hidden, torch.tensor([0, 0]), Scoring(chunk, torch.bfloat16))
    logprobs.sum().backward()
    assert hidden.grad is not None
    torch.testing.assert_close(
        hidden.grad, torch.full((2, 1), 2 / (1 + torch.tensor(8.0).exp().item())), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize("chunk", [3, 99])
def test_half_precision_gradients_are_near_those_of_the_definition(chunk: int) -> None:
    results = []
    for compute, dtype in ((token_logprobs, torch.bfloat16), (plain, torch.float64)):
        head, hidden, targets = parts(bias=True)
        if dtype == torch.bfloat16:
            head, hidden = head.float(), hidden.detach().float().requires_grad_()
        logprobs, entropy = compute(head, hidden, targets, Scoring(chunk, dtype, temperature=0.8))
        (logprobs - 0.1 * entropy).sum().backward()
        results.append([tensor.grad.double() for tensor in (hidden, *head.parameters())])  # type: ignore[union-attr]
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() < 0.02 * expected.norm()


def test_no_tensor_of_logits_is_larger_than_a_chunk() -> None:
    sizes = []
    head, hidden, targets = parts()

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.ndim == 2 and out.shape[1] == VOCABULARY:
                sizes.append(out.shape[0])
            return out

    with Spy():
        logprobs, entropy = token_logprobs(head, hidden, targets, Scoring(chunk=4, dtype=torch.float64))
        (logprobs + entropy).sum().backward()
    assert 4 in sizes
    assert all(size in (4, 3, WIDTH) for size in sizes)  # chunks of 4, 4 and 3; the transposed weight
