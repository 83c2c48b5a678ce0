"""What every test shares: nothing is fetched, torch keeps to one thread, and pages are opened in one browser."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)  # busy machines would stall it

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One headless Chromium for the whole session, and the event loop that drives it; tests ask for `browser`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are tested with Playwright (extra: dev)")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip(f"pages are tested in Chromium, and there is none of {', '.join(CHROMIUM)}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield browser, loop
        asyncio._set_running_loop(loop)
        browser.close()


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Any]:
    """The browser, for the tests of one module.

    Playwright's loop counts as running as long as the browser lives, and `asyncio.run` refuses to start beside it: so
    it is marked as running only while a module has the browser.
    """
    browser, loop = chromium
    asyncio._set_running_loop(loop)
    yield browser
    asyncio._set_running_loop(None)
