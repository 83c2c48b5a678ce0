"""What the disk refuses has a name, whichever library met it."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from turnwise.disk import DISK_ERRORS, naming

FULL = Path("/dev/full")


def write_text(path: Path) -> None:
    with path.open("w") as file:
        file.write("x" * 100)
        file.flush()


def write_tensors(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"a": torch.zeros(1000)}, file)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("write", [write_text, write_tensors])
def test_a_full_disk_is_told_with_the_path(tmp_path: Path, write):
    (tmp_path / "file").symlink_to(FULL)
    wanted = tmp_path / "wanted"
    with pytest.raises(OSError, match=r"No space left on device: '.*/wanted'") as refused, naming(wanted):
        write(tmp_path / "file")
    assert (refused.value.errno, refused.value.filename) == (errno.ENOSPC, str(wanted))


def test_what_safetensors_says_in_words_is_understood(tmp_path: Path):
    # Its error for a missing folder is of the same kind as that for a full disk, and has another number.
    with pytest.raises(Exception, match=r"\(os error 2\)") as told, naming(tmp_path):
        save_file({"a": torch.zeros(2)}, tmp_path / "none" / "a.safetensors")
    assert not isinstance(told.value, OSError), "2 is no error of the disk"
    text = str(told.value).replace("os error 2", f"os error {errno.EDQUOT}")
    with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)), naming(tmp_path):
        raise type(told.value)(text)


def test_other_errors_stay_what_they_are(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="none"), naming(tmp_path):
        (tmp_path / "none").read_text()
    with pytest.raises(RuntimeError, match="out of memory"), naming(tmp_path):
        raise RuntimeError("out of memory")
    assert errno.ENOENT not in DISK_ERRORS
