from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tiny_models import PolicyGradientLoss, small_model, small_policy, token_batch

SEQUENCES = (
    ((20, 21, 22, 23), (0, 0, 1, 1)),
    ((30, 31, 32, 33, 34, 35, 36), (0, 1, 1, 0, 0, 1, 1)),
    ((50, 51, 52, 53, 54, 55, 56), (0, 0, 0, 0, 1, 1, 1)),
)


def gradient(**settings: Any) -> Tensor:
    return small_policy(**settings).gradient(token_batch(SEQUENCES), PolicyGradientLoss())


def test_bfloat16_computes_by_autocast_over_float32_weights() -> None:
    batch = token_batch(SEQUENCES)
    made = small_policy(small_model().to(torch.bfloat16), dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in made.weights().values()} == {torch.float32}
    exact = small_policy(small_model().to(torch.bfloat16)).logprobs(batch)
    found = made.logprobs(batch)
    assert 0 < (found - exact).abs().max() < 0.1
    assert made.update(batch, PolicyGradientLoss()).metrics["loss/grad_norm"] > 0


def test_the_gradient_is_near_that_of_full_precision_however_the_batch_is_cut() -> None:
    exact = gradient()
    for token_budget in (1000, 8):
        found = gradient(dtype=torch.bfloat16, token_budget=token_budget)
        assert 0 < (found - exact).norm() < 0.02 * exact.norm()


def test_layers_that_are_computed_twice_give_the_same_bits() -> None:
    settings: dict[str, Any] = {"dtype": torch.bfloat16, "token_budget": 8}
    assert gradient(gradient_checkpointing=True, **settings).equal(gradient(**settings))


def test_a_step_casts_each_layers_weights_once_and_the_next_step_casts_them_anew() -> None:
    made = small_policy(dtype=torch.bfloat16, token_budget=1)
    batch = token_batch(SEQUENCES)
    casts: Counter[int] = Counter()

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default and kwargs["dtype"] == torch.bfloat16:
                casts[args[0].data_ptr()] += 1
            return func(*args, **(kwargs or {}))

    projection = dict(made.weights())["model.layers.0.mlp.up_proj.weight"].data_ptr()
    with Spy():
        figures = made.update(batch, PolicyGradientLoss()).metrics
        assert (figures["update/num_micro_batches"], casts[projection]) == (3, 1)
        after = made.logprobs(batch)
        assert casts[projection] == 2
    fresh = small_policy(dtype=torch.bfloat16)
    assert not fresh.logprobs(batch).equal(after)
    for name, tensor in fresh.weights().items():
        tensor.copy_(made.weights()[name])
    assert fresh.logprobs(batch).equal(after)
