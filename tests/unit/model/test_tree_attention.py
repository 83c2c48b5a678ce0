import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import modeling_flash_attention_utils

from tiny_models import small_model, token_batch
from turnwise.model.attention import FLASH, Attention, choose_attention
from turnwise.model.scorer import TokenScorer
from turnwise.types import TokenBatch

PROMPT, OTHER = (20, 21, 22, 23, 24), (30, 31)
# Three trajectories of one problem, ragged, one with a tool's tokens inside; two of another; one alone.
SEQUENCES = (
    ((*PROMPT, 25, 26, 27), (0,) * 5 + (1, 1, 1)),
    ((*PROMPT, 28), (0,) * 5 + (1,)),
    ((*PROMPT, 25, 29, 60, 61, 33, 34), (0,) * 5 + (1, 1, 0, 0, 1, 1)),
    ((*OTHER, 40, 41), (0, 0, 1, 1)),
    ((*OTHER, 42, 43, 44), (0, 0, 1, 1, 1)),
    ((50, 51, 52), (0, 1, 1)),
)
FAMILIES = ("Llama", "Qwen2", "Qwen3", "SmolLM3", "Mistral")


def model_of(family: str, kernel: str = "sdpa", **overrides: Any) -> Any:
    settings: dict[str, Any] = {"sliding_window": None} if family == "Mistral" else {}
    model = small_model(family=family, **(settings | overrides)).double()
    model.set_attn_implementation(kernel)
    return model


def scorer(model: Any, **settings: Any) -> TokenScorer:
    return TokenScorer(model, **({"token_budget": 1000, "logit_chunk": 3, "dtype": torch.float32} | settings))


def alone(model: Any, batch: TokenBatch) -> Tensor:
    """Log-probs of the loss tokens, each sequence in a forward pass of its own, with autograd."""
    found = []
    for sequence in range(batch.num_sequences):
        one = batch.select([sequence])
        logprobs = model(input_ids=one.token_ids[None]).logits[0].log_softmax(-1)
        places = one.loss_mask.nonzero().squeeze(1)
        found.append(logprobs[places - 1, one.token_ids[places]])
    return torch.cat(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_packed_group_has_the_log_probs_and_the_gradient_of_its_sequences_alone(family: str, kernel: str) -> None:
    batch = token_batch(SEQUENCES)
    weights = batch.advantages[batch.loss_mask].double()
    plain, packed = model_of(family), model_of(family, kernel)
    expected = alone(plain, batch)
    (expected * weights).sum().backward()
    scores = scorer(packed).score(batch)
    (scores.logprobs_N[batch.loss_mask] * weights).sum().backward()
    torch.testing.assert_close(scores.logprobs_N[batch.loss_mask], expected, rtol=0, atol=1e-9)
    assert scores.num_computed_tokens == batch.token_ids.numel() - 2 * len(PROMPT) - len(OTHER)
    for (name, one), other in zip(packed.named_parameters(), plain.parameters(), strict=True):
        # The layers' norms compute in float32 whatever the model's precision.
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6, msg=name)


def test_a_token_of_a_sibling_reaches_nothing() -> None:
    changed = [*SEQUENCES[:2], ((*PROMPT, 90, 91, 92, 93, 94, 95), SEQUENCES[2][1]), *SEQUENCES[3:]]
    made = scorer(model_of("Llama"))
    before, after = (made.score(token_batch(rows)).logprobs_N for rows in (SEQUENCES, changed))
    torch.testing.assert_close(after[:14], before[:14], rtol=0, atol=0)
    torch.testing.assert_close(after[25:], before[25:], rtol=0, atol=1e-12)
    assert not torch.allclose(after[14:25], before[14:25])


def variable_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    causal: bool,
    softmax_scale: float | None = None,
    **lengths: int,
) -> Tensor:
    """What flash-attention's function of this name documents, written plainly: its mask is aligned at the last key."""
    assert causal
    assert lengths["max_seqlen_q"] == int(cu_seqlens_q.diff().max())
    assert lengths["max_seqlen_k"] == int(cu_seqlens_k.diff().max())
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    rows = []
    for (a, b), (c, d) in zip(pairwise(cu_seqlens_q), pairwise(cu_seqlens_k), strict=True):
        repeats = query.shape[1] // key.shape[1]
        q, k, v = query[a:b], key[c:d].repeat_interleave(repeats, 1), value[c:d].repeat_interleave(repeats, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * (softmax_scale or 1 / math.sqrt(q.shape[-1]))
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        rows.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v))
    return torch.cat(rows)


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3", "flash_attention_4"])
def test_flash_attention_gets_every_segment_with_its_prefix_in_one_call(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def lazy_import(implementation: str) -> Any:
        def options(**given: Any) -> dict[str, Any]:
            chosen = {name: given[name] for name in ("max_seqlen_q", "max_seqlen_k", "softmax_scale")}
            return {**chosen, "causal": given["is_causal"]}

        calls.append(implementation)
        return (None, variable_length, None, None, None), (options, None)

    monkeypatch.setattr(modeling_flash_attention_utils, "lazy_import_flash_attention", lazy_import)
    batch, model = token_batch(SEQUENCES), model_of("Qwen3")
    expected = scorer(model_of("Qwen3")).score(batch).logprobs_N
    model.config._attn_implementation = kernel
    made = scorer(model)
    calls.clear()
    torch.testing.assert_close(made.score(batch).logprobs_N, expected, rtol=0, atol=1e-9)
    assert calls == [kernel] * 2  # once a layer


def test_models_whose_attention_is_not_full_are_refused() -> None:
    with pytest.raises(ValueError, match="MistralAttention has sliding_window: the policy needs full attention"):
        scorer(small_model(family="Mistral", sliding_window=4))


def test_models_that_change_their_logits_behind_the_head_are_refused() -> None:
    with pytest.raises(ValueError, match="CohereForCausalLM changes its logits behind the output embedding"):
        scorer(small_model(family="Cohere", logit_scale=0.5))


def test_whole_sequences_without_a_tree_are_scored_as_ever() -> None:
    rows = torch.tensor([[20, 21, 22], [30, 31, 32]])
    plain, taken = model_of("Llama"), model_of("Llama", "eager")
    scorer(taken)
    scorer(taken)  # taking a model over twice changes nothing
    torch.testing.assert_close(taken(input_ids=rows).logits, plain(input_ids=rows).logits, rtol=0, atol=1e-9)


def scored(kernel: str, dtype: torch.dtype, device: torch.device, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Log-probs of loss tokens and the gradient of their weighted sum, through a packed tree; as float64 on the CPU."""
    model = model_of("Llama", hidden_size=128).float().to(device)  # heads of 32 numbers: some kernels need as many
    model.config._attn_implementation = kernel
    batch = batch.to(device)
    logprobs = scorer(model, dtype=dtype).score(batch).logprobs_N[batch.loss_mask]
    (logprobs * batch.advantages[batch.loss_mask]).sum().backward()
    return logprobs.detach().cpu().double(), torch.cat([p.grad.flatten().cpu().double() for p in model.parameters()])


def assert_rounds_like(found: Tensor, half: Tensor, exact: Tensor, floor: float) -> None:
    """`found` is at most twice as far from the exact values as another result in the same precision, plus a floor."""
    error, allowed = (found - exact).norm(), 2 * (half - exact).norm() + floor * exact.norm()
    assert error <= allowed, f"{error} > {allowed}"


def test_half_precision_is_judged_by_its_rounding() -> None:
    batch, cpu = token_batch(SEQUENCES), torch.device("cpu")
    exact = scored("eager", torch.float32, cpu, batch)
    half = scored("sdpa", torch.bfloat16, cpu, batch)
    other = scored("eager", torch.bfloat16, cpu, batch)
    for of_exact, of_half, of_other in zip(exact, half, other, strict=True):
        assert (of_half - of_exact).norm() > 1e-4 * of_exact.norm()  # it does round
        assert_rounds_like(of_other, of_half, of_exact, floor=0.005)
        with pytest.raises(AssertionError):
            assert_rounds_like(of_half + 0.1 * of_exact.norm(), of_half, of_exact, floor=0.005)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_of_a_gpu_agree_with_the_definition_in_log_probs_and_gradient() -> None:
    batch, cuda = token_batch(SEQUENCES), torch.device("cuda")
    exact = scored("eager", torch.float32, torch.device("cpu"), batch)
    half = scored("sdpa", torch.bfloat16, cuda, batch)
    for found, of_exact in zip(scored("sdpa", torch.float32, cuda, batch), exact, strict=True):
        torch.testing.assert_close(found, of_exact, rtol=1e-3, atol=1e-3)
    for found, of_exact in zip(half, exact, strict=True):
        assert (found - of_exact).norm() < 0.1 * of_exact.norm()  # bfloat16 keeps 8 bits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", FLASH)
def test_flash_attention_rounds_no_worse_than_sdpa(kernel: Attention) -> None:
    cuda, batch = torch.device("cuda"), token_batch(SEQUENCES)
    try:
        choose_attention(kernel, cuda, torch.bfloat16)
    except ValueError as error:
        pytest.skip(str(error))
    exact = scored("eager", torch.float32, torch.device("cpu"), batch)
    results = (scored(name, torch.bfloat16, cuda, batch) for name in (str(kernel), "sdpa"))
    for found, half, of_exact in zip(*results, exact, strict=True):
        assert_rounds_like(found, half, of_exact, floor=0.005)
