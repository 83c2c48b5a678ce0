"""The browser that tests of pages open (tests/opened_browser.py)."""

import asyncio

import psutil

from opened_browser import chromium


def test_a_browser_that_was_closed_leaves_no_process_and_no_event_loop() -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.set_content("<title>here</title>")
        assert page.title() == "here"
    left = [child.name() for child in psutil.Process().children(recursive=True)]
    assert not [name for name in left if "chrom" in name or "node" in name]
    assert asyncio.run(asyncio.sleep(0, "free")) == "free"
