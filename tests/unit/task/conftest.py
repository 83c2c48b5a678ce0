import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import config as hub_settings


def run_trusted(program: str) -> str:
    """What a program of our own prints; an error's name and text, as a tool would show it, when it fails."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            exec(program, {})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return output.getvalue().strip() or "(no output)"


@pytest.fixture
def run() -> Callable[[str], str]:
    return run_trusted


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package `datasets` keeps goes with the test."""
    monkeypatch.setattr(hub_settings, "HF_DATASETS_CACHE", str(tmp_path / "hub_cache"))
