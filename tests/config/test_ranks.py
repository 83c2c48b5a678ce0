"""What several processes may not be asked to do together, before anything loads."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from ranks_at_work import find_checkpoints
from several_ranks import together
from turnwise.config.build import build_components
from turnwise.config.checks import check_ranks
from turnwise.config.errors import ConfigError
from turnwise.manifest import write_manifest
from turnwise.ranks import Ranks

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("overrides", "count", "refusal"),
    [
        ([], 2, "trainer=single is for one process, and torchrun started 2: expected trainer=fsdp"),
        (
            ["trainer=fsdp", "rollout.num_problems=6"],
            4,
            "rollout.num_problems=6: 4 processes cannot share them evenly, expected a multiple of 4",
        ),
        (
            ["trainer=fsdp", "trainer.shard_size=3"],
            4,
            "trainer.shard_size=3: expected a divisor of the 4 processes, or 0",
        ),
        (["trainer=fsdp", "trainer.cpu_offload=true"], 1, "trainer.cpu_offload=true: the device is the CPU already"),
        (
            ["trainer=fsdp", "trainer.max_staleness=1", "loss.correction=truncate"],
            2,
            "trainer.max_staleness=1 trainer=fsdp: expected 0",
        ),
    ],
)
def test_what_ranks_cannot_do_is_refused(
    composed: Callable[..., DictConfig], overrides: list[str], count: int, refusal: str
):
    components = build_components(composed(*overrides), "test")
    with pytest.raises(ConfigError) as refused:
        check_ranks(components, Ranks(count=count), CPU)
    assert str(refused.value).startswith(refusal)


@pytest.mark.parametrize(("shard_size", "count"), [(0, 1), (0, 8), (2, 4), (4, 4), (1, 2)])
def test_what_they_can_do_is_not(composed: Callable[..., DictConfig], shard_size: int, count: int):
    components = build_components(composed("trainer=fsdp", f"trainer.shard_size={shard_size}"), "test")
    check_ranks(components, Ranks(count=count), CPU)


@pytest.mark.parametrize("engine", ["hf", "vllm", "vllm_server"])
def test_every_rank_may_have_any_engine(composed: Callable[..., DictConfig], engine: str):
    components = build_components(composed("trainer=fsdp", f"engine={engine}"), "test")
    check_ranks(components, Ranks(count=2, local_count=2), CPU)


def test_a_shard_size_below_0_is_refused(composed: Callable[..., DictConfig]):
    with pytest.raises(ConfigError, match=r"trainer\.shard_size=-1: expected >= 0"):
        build_components(composed("trainer=fsdp", "trainer.shard_size=-1"), "test")


def test_ranks_go_on_from_a_checkpoint_that_all_of_them_see(tmp_path: Path):
    def made(rank: int, name: str, content: str = "weights") -> Path:
        folder = tmp_path / str(rank) / name / "step_4"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(content)
        write_manifest(folder)
        return folder

    for rank in (0, 1):
        (tmp_path / str(rank) / "none").mkdir(parents=True)
        made(rank, "same")
        made(rank, "differing", content=f"weights {rank}")
    made(0, "missing")
    made(0, "damaged")
    (made(1, "damaged") / "model.safetensors").write_text("wei")
    for none, same, missing, differing, damaged in together(find_checkpoints, 2, tmp_path, str(tmp_path)):
        assert none == "None", "no folder at all"
        assert same == "same/step_4"
        assert differing.startswith("checkpoint differing/step_4: the ranks see different ones")
        for refusal in (missing, damaged):
            assert refusal.removeprefix("rank 1: ").startswith("checkpoint ")
            assert "cannot be seen as the first rank sees it: " in refusal
