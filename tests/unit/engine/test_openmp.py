import os
import platform
import threading
from pathlib import Path

import pytest
import torch

from turnwise.engine.openmp import release_workers

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="libgomp computes on Linux alone")


def num_threads() -> int:
    return len(list(Path(f"/proc/{os.getpid()}/task").iterdir()))


def test_workers_are_gone_and_come_back_with_the_next_large_operation() -> None:
    counts: list[int] = []

    def compute() -> None:  # in a thread of its own, which begins without workers
        for _ in range(2):
            counts.append(num_threads())
            assert torch.ones(2_000_000).sum() == 2_000_000
            counts.append(num_threads())
            assert release_workers()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert [count - counts[0] for count in counts] == [0, 2, 0, 2]


def test_other_systems_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    from turnwise.engine import openmp

    openmp._openmp.cache_clear()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert not release_workers()
    openmp._openmp.cache_clear()
