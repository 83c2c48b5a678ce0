"""What a device can do at best: matrix products and copies, measured, and products as its maker publishes them."""

from collections.abc import Callable
from time import perf_counter

import torch

MEASURED_S = 0.5
"""Seconds of work whose rate is taken."""
CPU = torch.device("cpu")
PUBLISHED_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.5,
    "H200 NVL": 835.5,
    "H100": 989.4,
    "H200": 989.4,
    "A100": 312.0,
}
"""Dense bfloat16 products by a part of the GPU's name, special ones first; NVIDIA's data sheets."""


def product_rate(dtype: torch.dtype, rows: int, inner: int, columns: int, device: torch.device = CPU) -> float:
    """FLOP/s of `[rows, inner] x [inner, columns]` as a linear layer computes it: 2 for each multiplication."""
    left, right = (torch.randn(count, inner, device=device).to(dtype) for count in (rows, columns))
    return 2 * rows * inner * columns / _seconds_each(lambda: torch.nn.functional.linear(left, right), device)


def copy_rate(num_bytes: int, device: torch.device = CPU) -> float:
    """Bytes per second between a device and its memory, read and written, of copies of so many bytes."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * num_bytes / _seconds_each(lambda: target.copy_(source), device)


def published_tflops(name: str) -> float | None:
    """Of the GPU of that name; None where it is not in the table."""
    return next((rate for part, rate in PUBLISHED_TFLOPS.items() if part in name), None)


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds_each(work: Callable[[], object], device: torch.device) -> float:
    work()  # what is set up at a first call does not count
    synchronise(device)
    count, started = 0, perf_counter()
    while (taken := perf_counter() - started) < MEASURED_S:
        work()
        synchronise(device)
        count += 1
    return taken / count
