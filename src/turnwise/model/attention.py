"""Which attention kernel a model runs with on the device at hand."""

import logging
from enum import StrEnum
from typing import NamedTuple

import torch

log = logging.getLogger(__name__)


class Attention(StrEnum):
    """Attention kernels by transformers' names; `auto` takes the fastest that is installed."""

    auto = "auto"
    flash_attention_2 = "flash_attention_2"
    flash_attention_3 = "flash_attention_3"
    flash_attention_4 = "flash_attention_4"
    sdpa = "sdpa"
    eager = "eager"


FLASH = (Attention.flash_attention_4, Attention.flash_attention_3, Attention.flash_attention_2)
"""Flash-attention generations, newest first."""


class AttentionChoice(NamedTuple):
    """A kernel other than `auto`, and why it was taken."""

    kernel: Attention
    reason: str


def choose_attention(wanted: Attention, device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    """Settles on a kernel before a model loads.

    Args:
        wanted: What the configuration asks for.
        device: Where the model will run.
        dtype: What attention will compute in; flash-attention knows only the half precisions.

    Returns:
        On CUDA in half precision the newest flash-attention that is installed, else PyTorch's own scaled dot product
        attention. On CUDA the lack of flash-attention is logged as a warning: it costs speed and memory.

    Raises:
        ValueError: If the wanted kernel cannot be had here; the message says why.
    """
    obstacle = _flash_obstacle(device, dtype)
    if wanted in FLASH and obstacle is None and not _is_installed(wanted):
        obstacle = "it is not installed"
    if wanted in FLASH and obstacle is None and not _has_kernel(wanted, device):
        obstacle = f"it has no kernel for {torch.cuda.get_device_name(device)}"
    if wanted in FLASH and obstacle is not None:
        raise ValueError(f"model.attention={wanted}: cannot be had here, {obstacle}; use auto, sdpa or eager")
    if wanted is not Attention.auto:
        return AttentionChoice(wanted, "as configured")
    usable = [kernel for kernel in FLASH if obstacle is None and _is_installed(kernel) and _has_kernel(kernel, device)]
    if usable:
        return AttentionChoice(usable[0], "the newest flash-attention that is installed and knows this GPU")
    reason = obstacle or "no flash-attention that knows this GPU is installed"
    if device.type == "cuda":
        log.warning("model.attention=auto takes sdpa: %s", reason)
    return AttentionChoice(Attention.sdpa, reason)


def _flash_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"flash-attention needs a CUDA device, not {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"flash-attention computes in half precision, not in {str(dtype).removeprefix('torch.')}"
    return None


def _has_kernel(kernel: Attention, device: torch.device) -> bool:
    """Whether the GPU is of a generation that a flash-attention was written for, by its compute capability."""
    major = torch.cuda.get_device_capability(device)[0]
    return {
        Attention.flash_attention_2: major >= 8,
        Attention.flash_attention_3: major == 9,
        Attention.flash_attention_4: major >= 9,
    }[kernel]


def _is_installed(kernel: Attention) -> bool:
    from transformers.utils import import_utils

    probes = {
        Attention.flash_attention_2: import_utils.is_flash_attn_2_available,
        Attention.flash_attention_3: import_utils.is_flash_attn_3_available,
        Attention.flash_attention_4: import_utils.is_flash_attn_4_available,
    }
    return probes[kernel]()
