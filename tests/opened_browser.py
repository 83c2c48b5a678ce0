"""A real browser for the tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright; skips the test where either is missing.

    Not to be kept for a whole session: its processes are children of this one, which tests of other modules count, and
    Playwright's event loop counts as running as long as the browser lives, beside which `asyncio.run` does not start.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are tested with Playwright (extra: dev)")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"pages are tested in Chromium, and there is none of {', '.join(NAMES)}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
