"""What can never fit is refused; the machine is made small for it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig

from turnwise.config import room
from turnwise.config.build import build_components
from turnwise.config.errors import ConfigError
from turnwise.config.room import check_room
from turnwise.ranks import Ranks

CPU = torch.device("cpu")
TINY = 1_094_240
"""Parameters of the policy that ships with the package: 16 bytes each while it is trained, 12 in a checkpoint."""


def refusal(
    composed: Callable[..., DictConfig], folder: Path, *overrides: str, ranks: Ranks | None = None
) -> str | None:
    components = build_components(composed("trainer.device=cpu", *overrides), label="test")
    try:
        check_room(components, folder, CPU, ranks or Ranks())
    except ConfigError as error:
        return str(error)
    return None


def test_the_machine_at_hand_has_room_for_the_tiny_policy(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    assert refusal(composed, tmp_path) is None


@pytest.mark.parametrize(
    ("overrides", "ranks", "bytes_each"),
    [
        ((), Ranks(), 16),
        (("loss.kl_weight=0.1",), Ranks(), 20),
        (("trainer=fsdp",), Ranks(index=1, count=2, local_count=2), 16),
        (("trainer=fsdp", "trainer.shard_size=1"), Ranks(index=1, count=2, local_count=2), 32),
        (("trainer=fsdp",), Ranks(index=1, count=4, local_count=2), 8),
    ],
)
def test_memory_that_holds_less_than_weights_gradients_and_moments_is_refused(
    composed: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    ranks: Ranks,
    bytes_each: int,
) -> None:
    monkeypatch.setattr(room, "total_bytes", lambda _: bytes_each * TINY)
    assert refusal(composed, tmp_path, *overrides, ranks=ranks) is None
    monkeypatch.setattr(room, "total_bytes", lambda _: bytes_each * TINY - 1)
    said = refusal(composed, tmp_path, *overrides, ranks=ranks)
    assert said is not None
    assert said.startswith("model.path=package:tiny: weights, gradients and optimiser alone take 0.0 GiB, and this cpu")


def test_a_disk_without_room_for_one_checkpoint_is_refused_by_the_first_rank(
    composed: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12 * TINY - 1))
    said = refusal(composed, tmp_path)
    assert said == f"hydra.run.dir={tmp_path}: a checkpoint takes 0.012 GiB, and its disk has 0.012 left"
    assert refusal(composed, tmp_path, "trainer=fsdp", ranks=Ranks(index=1, count=2)) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12 * TINY))
    assert refusal(composed, tmp_path) is None
