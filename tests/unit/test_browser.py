"""The browser that tests of pages share (tests/conftest.py)."""

import asyncio


def test_a_browser_at_rest_leaves_event_loops_to_others(chromium):
    assert chromium[0].is_connected()
    assert asyncio.run(asyncio.sleep(0, "ran")) == "ran"
