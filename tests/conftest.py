"""What every test shares: nothing is fetched, torch keeps to one thread, and pages are opened in Chromium."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import torch

from opened_browser import chromium

torch.set_num_threads(1)  # busy machines would stall it


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium for the tests of one module."""
    with chromium() as opened:
        yield opened
