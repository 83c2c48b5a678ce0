"""Checkpoints that a run cannot go on from, or can only in part; disks that are full."""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration_runs import IN_PROCESS, SMALL, Run, assert_same_run, flip_a_bit
from killed_runs import Starter
from turnwise import checkpoint
from turnwise.config.errors import ConfigError
from turnwise.manifest import damage_of

SETTINGS = (*IN_PROCESS, "evaluation.num_problems=4")


def test_a_damaged_last_checkpoint_is_passed_over_and_its_steps_are_made_again(
    run: Run, whole: Run, caplog: pytest.LogCaptureFixture
):
    parts = run(*SETTINGS, "trainer.num_steps=2", folder="parts")
    flip_a_bit(parts / "checkpoints" / "step_2" / "model.safetensors")
    with caplog.at_level(logging.WARNING, "turnwise.checkpoint"):
        run(*SETTINGS, folder="parts")
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "turnwise.checkpoint"]
    assert "step_2: model.safetensors is not as it was written; going on from" in warning
    assert warning.endswith("step_1")
    assert_same_run(whole(*SETTINGS), parts)
    assert checkpoint.latest(parts / "checkpoints") == (parts / "checkpoints" / "step_3").resolve()
    left = {path.name: damage_of(path, reads_all=True) for path in (parts / "checkpoints").glob("step_*")}
    assert left == dict.fromkeys(["step_2", "step_3"]), "the damaged one was written anew"

    for folder in (parts / "checkpoints").glob("step_*"):
        flip_a_bit(folder / "optimiser.pt")
    with pytest.raises(ConfigError, match=r"no checkpoint is whole: .*optimiser\.pt is not as .* remove"):
        run(*SETTINGS, folder="parts")


def test_evaluating_a_damaged_checkpoint_says_so(run: Run, capsys: pytest.CaptureFixture[str]):
    settings = (*IN_PROCESS, "evaluation.num_problems=2")
    last = run(*settings, "trainer.num_steps=1", folder="there") / "checkpoints" / "last"
    evaluate = (*settings, "mode=evaluate", f"model.path={last}")
    run(*evaluate, folder="whole")
    assert "warning" not in capsys.readouterr().out
    flip_a_bit(last / "model.safetensors")
    run(*evaluate, folder="damaged")
    assert "model.safetensors is not as it was written; it was damaged, or changed by hand" in capsys.readouterr().out


def test_checkpoints_of_another_model_are_refused(run: Run, whole: Run):
    here = run("trainer.num_steps=1", "evaluation.num_problems=4")
    shutil.rmtree(here / "checkpoints")
    shutil.copytree(whole(*SETTINGS) / "checkpoints", here / "checkpoints", symlinks=True)
    with pytest.raises(ConfigError, match=r"step_3 is of another run: its tokenizer is not this model's: token "):
        run("evaluation.num_problems=4")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for two checkpoints of 13 MB, and not for three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=34m", "none", folder]).returncode:
        pytest.skip("a small disk can only be mounted by root, with the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_a_run_in_one_line_and_it_goes_on_when_there_is_room(
    start: Starter, whole: Run, small_disk: Path
):
    settings = (*SMALL, *SETTINGS, "trainer.keep_checkpoints=0")
    run_dir = small_disk / "run"
    full = start(settings, run_dir)
    assert full.wait() == 1
    printed = full.output.read_text()
    assert "Traceback" not in printed
    expected = f"error: {run_dir}/checkpoints/step_3: No space left on device; once it works, the same command with"
    assert printed.splitlines()[-1].startswith(expected), printed
    assert not list(run_dir.rglob(".tmp-*"))
    assert checkpoint.latest(run_dir / "checkpoints") == run_dir.resolve() / "checkpoints" / "step_2"

    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    again = start(settings, run_dir)
    assert again.wait() == 0, again.output.read_text()
    assert again.begun()[0] == 2, "step 2 alone is repeated"
    assert_same_run(whole(*SETTINGS), run_dir)
