import contextlib
import io
from collections.abc import Callable

import pytest


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
