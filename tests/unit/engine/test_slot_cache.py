from pathlib import Path

import torch

from tiny_models import small_model
from turnwise.engine.slot_cache import SlotCache, SlotLayout, SlotShape

CPU = torch.device("cpu")


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def test_the_shape_is_the_models() -> None:
    shape = SlotShape.of(small_model().to(torch.bfloat16))  # 2 layers, 2 key heads of 32 / 4 numbers
    assert shape == (2, 2, 8, torch.bfloat16)
    assert shape.bytes_per_token == 2 * 2 * 2 * 8 * 2  # layers, keys and values, heads, numbers, bytes


def test_what_is_not_written_is_zero_and_takes_no_memory() -> None:
    shape = SlotShape(num_layers=2, num_heads=1, head_size=64, dtype=torch.float32)  # 1 KiB a token
    before = resident_mib()
    cache = SlotCache(shape, SlotLayout(num_slots=256, num_columns=1024), CPU)  # 256 MiB
    cache.layers[1][0, 255, 0, :8] = 1.0
    assert resident_mib() - before < 64
    assert cache.layers[0].shape == (2, 256, 1, 1024, 64)
    assert cache.layers[1][0, 255, 0, :9].sum() == 8 * 64
