from pathlib import Path

import pytest

from turnwise.model.gguf import convert


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.gguf: no such file"):
        convert(tmp_path / "model.gguf", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    kept = tmp_path / "out" / "config.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    with pytest.raises(FileExistsError, match="is there already; remove it"):
        convert(file, kept.parent)
    assert kept.read_text() == "{}"
