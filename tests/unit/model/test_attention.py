import logging

import pytest
import torch

from tiny_models import small_model
from turnwise.model import attention
from turnwise.model.attention import Attention, choose_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_takes_the_newest_flash_attention_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {Attention.flash_attention_2, Attention.flash_attention_3}
    monkeypatch.setattr(attention, "_is_installed", installed.__contains__)
    assert choose_attention(Attention.auto, CUDA, torch.bfloat16).kernel is Attention.flash_attention_3
    assert choose_attention(Attention.flash_attention_2, CUDA, torch.float16).kernel is Attention.flash_attention_2


@pytest.fixture(autouse=True)
def generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the GPU that the tests speak of: Hopper."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [(torch.bfloat16, "no flash-attention that knows this GPU is installed"), (torch.float32, "not in float32")],
)
def test_auto_on_cuda_falls_back_to_sdpa_with_a_warning(
    dtype: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention, "_is_installed", lambda kernel: False)
    with caplog.at_level(logging.WARNING):
        assert choose_attention(Attention.auto, CUDA, dtype).kernel is Attention.sdpa
    assert reason in caplog.text


def test_auto_on_cpu_is_sdpa_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_attention(Attention.auto, CPU, torch.float32) == (
        Attention.sdpa,
        "flash-attention needs a CUDA device, not cpu",
    )
    assert caplog.text == ""


@pytest.mark.parametrize("kernel", [Attention.sdpa, Attention.eager])
def test_what_needs_nothing_is_taken_as_it_is(kernel: Attention) -> None:
    assert choose_attention(kernel, CPU, torch.float32) == (kernel, "as configured")


def test_what_cannot_be_had_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_is_installed", lambda kernel: False)
    with pytest.raises(ValueError, match=r"model\.attention=flash_attention_2: .* needs a CUDA device, not cpu"):
        choose_attention(Attention.flash_attention_2, CPU, torch.bfloat16)
    with pytest.raises(ValueError, match="half precision, not in float32"):
        choose_attention(Attention.flash_attention_3, CUDA, torch.float32)
    with pytest.raises(ValueError, match=r"flash_attention_4: .* not installed"):
        choose_attention(Attention.flash_attention_4, CUDA, torch.bfloat16)


def test_a_generation_of_gpus_that_a_kernel_does_not_know_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_is_installed", lambda kernel: True)
    found = []
    for capability in ((7, 5), (8, 0), (9, 0), (10, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        found.append(choose_attention(Attention.auto, CUDA, torch.bfloat16).kernel)
    fa2, fa4 = Attention.flash_attention_2, Attention.flash_attention_4
    assert found == [Attention.sdpa, fa2, fa4, fa4]
    with pytest.raises(ValueError, match="flash_attention_3: cannot be had here, it has no kernel for a GPU"):
        choose_attention(Attention.flash_attention_3, CUDA, torch.bfloat16)


def test_names_are_values() -> None:
    assert all(member.name == member.value for member in Attention)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_agree_on_cuda() -> None:
    token_ids = torch.randint(2, 290, (3, 40), generator=torch.Generator().manual_seed(0)).cuda()
    reference = small_model().cuda()(input_ids=token_ids).logits
    kernels = [Attention.sdpa, Attention.eager, choose_attention(Attention.auto, CUDA, torch.bfloat16).kernel]
    for kernel in kernels:
        model = small_model().to("cuda", torch.bfloat16)
        model.set_attn_implementation(str(kernel))
        found = model(input_ids=token_ids).logits.float()
        # bfloat16 keeps 8 bits: errors of a percent of the logits' scale, through two layers.
        assert (found - reference).abs().max() < 0.05 * reference.abs().max(), kernel
