"""Two processes with a disk that refuses one of them, or a checkpoint that is not as they wrote it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from torch._C._distributed_c10d import TCPStore

from integration_runs import SHARDED, assert_same_run, flip_a_bit, newest
from killed_runs import KillableRun, Starter
from turnwise.manifest import damage_of

SETTINGS = (*SHARDED, "trainer.num_steps=3")


@pytest.fixture(scope="module")
def whole(start: Starter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("ranks") / "whole"
    ended(start.ranks(2, SETTINGS, run_dir), 0)
    return run_dir


def ended(ranks: Sequence[KillableRun], code: int) -> str:
    """What the first printed; all have ended with `code`, and nobody else said anything."""
    codes = [one.wait() for one in ranks]
    printed = [one.output.read_text() for one in ranks]
    assert codes == [code, code], printed
    assert printed[1:] == [""]
    assert "Traceback" not in printed[0]
    return printed[0]


def remove(path: Path) -> None:
    path.unlink()


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("optimiser/__1_0.distcp", flip_a_bit, "optimiser/__1_0.distcp is not as it was written"),
        *[
            pytest.param(*one, marks=pytest.mark.slow)
            for one in [
                ("model.safetensors", flip_a_bit, "model.safetensors is not as it was written"),
                ("optimiser/__1_0.distcp", remove, "optimiser/__1_0.distcp: No such file or directory"),
                ("state.json", tear, "state.json has 10 bytes of "),
            ]
        ],
    ],
)
def test_a_damaged_last_checkpoint_is_passed_over(
    start: Starter, tmp_path: Path, whole: Path, name: str, damage: Callable[[Path], None], told: str
):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir, symlinks=True)
    damage(run_dir / "checkpoints" / "step_3" / name)
    ranks = start.ranks(2, SETTINGS, run_dir)
    printed = ended(ranks, 0)
    (warning,) = [line for line in printed.splitlines() if "a damaged checkpoint is passed over" in line]
    assert told in warning
    assert warning.endswith("step_2")
    assert ranks[0].begun() == [2]
    assert_same_run(whole, run_dir)
    assert damage_of(run_dir / "checkpoints" / "step_3", reads_all=True) is None, "it was written anew"


def test_without_a_whole_checkpoint_all_end_with_2(start: Starter, tmp_path: Path, whole: Path):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir, symlinks=True)
    (run_dir / "checkpoints" / "step_2" / "optimiser" / "__0_0.distcp").unlink()
    tear(run_dir / "checkpoints" / "step_3" / "state.json")
    printed = ended(start.ranks(2, SETTINGS, run_dir), 2)
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "no checkpoint is whole: " in line
    assert "state.json has 10 bytes of " in line
    assert "optimiser/__0_0.distcp: No such file or directory" in line


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_refuses_one_of_them_ends_both_in_one_line(start: Starter, tmp_path: Path, whole: Path, rank: int):
    # The first cannot write the weights, the other not its part of the optimiser's state.
    run_dir = tmp_path / "run"
    ended(start.ranks(2, (*SETTINGS, "trainer.num_steps=1"), run_dir), 0)
    full = start.ranks(2, SETTINGS, run_dir, max_file_bytes={rank: 100_000})
    printed = ended(full, 1)
    expected = f"error: {run_dir}/checkpoints/step_2: File too large; once it works, the same command with"
    assert [line.startswith(expected) for line in printed.splitlines() if "error: " in line] == [True], printed
    assert list(run_dir.rglob(".tmp-*")) == []
    assert newest(run_dir) == 1

    again = start.ranks(2, SETTINGS, run_dir)
    ended(again, 0)
    assert again[0].begun() == [1, 2], "step 1 alone is repeated"
    assert_same_run(whole, run_dir)


@pytest.fixture
def small_disk(tmp_path: Path, whole: Path) -> Iterator[Path]:
    """A disk with room for a checkpoint, and for the weights of another and half of its optimiser's state."""
    last = whole / "checkpoints" / "step_3"
    sizes = {path: path.stat().st_size for path in last.rglob("*") if path.is_file()}
    parts = sum(size for path, size in sizes.items() if path.parent != last)
    others = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file() and "checkpoints" not in path.parts)
    size = 2 * sum(sizes.values()) - parts // 2 + others
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]).returncode:
        pytest.skip("a small disk can only be mounted by root, with the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_when_both_write_ends_both_in_one_line(start: Starter, whole: Path, small_disk: Path):
    run_dir = small_disk / "run"
    settings = (*SETTINGS, "trainer.keep_checkpoints=0")
    printed = ended(start.ranks(2, settings, run_dir), 1)
    expected = f"error: {run_dir}/checkpoints/step_2: No space left on device; once it works, the same command with"
    assert printed.splitlines()[-1].startswith(expected), printed
    assert list(run_dir.rglob(".tmp-*")) == []
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    again = start.ranks(2, settings, run_dir)
    ended(again, 0)
    assert again[0].begun()[0] == 1, "step 1 alone is repeated"
    assert_same_run(whole, run_dir)


@pytest.mark.slow
def test_of_two_that_end_by_what_one_could_not_write_one_speaks(start: Starter, tmp_path: Path, whole: Path):
    # The first alone writes metrics.jsonl, and the other notices that it is gone: torchrun's store says who has spoken.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    settings = (*SHARDED, "trainer.num_steps=8", "trainer.save_every=100", "trainer.eval_every=100")
    run_dir = tmp_path / "run"
    room = (whole / "config.json").stat().st_size + 1000  # which eight lines of figures exceed
    printed = ended(start.ranks(2, settings, run_dir, max_file_bytes={0: room}, environment=meeting), 1)
    expected = f"error: {run_dir}/metrics.jsonl: File too large; once it works, the same command with"
    assert [line.startswith(expected) for line in printed.splitlines() if "error: " in line] == [True], printed
