"""The page of a run in a browser: seconds until its viewer is ready, and until a word is found in all trajectories."""

import json
import random
import shutil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from prepared import NotPrepared
from rescore import GROUP_SIZE, synthetic_group
from turnwise.protocols import PGK
from turnwise.report.page import write_report
from turnwise.tracker.bundle import bundle_path, write_groups

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
GROUPS_A_STEP = 25
NUM_STEPS = {"200": 1, "2000": 10}
"""Steps of a run by its trajectories; all steps are alike, so opening takes longer only where more than one is read."""
REPEATS = 5


def measure() -> dict[str, float]:
    """Median seconds with 200 and with 2,000 trajectories, and the one over the other: 1 if size costs nothing.

    Raises:
        NotPrepared: There is no browser.
    """
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise NotPrepared(f"needs a browser, and there is none of {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    with TemporaryDirectory() as folder, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        pages = {size: page_of_run(Path(folder) / size, num_steps) for size, num_steps in NUM_STEPS.items()}
        times: dict[str, list[tuple[float, float]]] = {size: [] for size in pages}
        for _ in range(REPEATS):
            for size, address in pages.items():
                times[size].append(seconds(browser, address))
        browser.close()
    figures = {}
    for place, name in enumerate(("opened", "searched")):
        few, many = (median(one[place] for one in times[size]) for size in pages)
        figures |= {f"{name}_200_s": few, f"{name}_2000_s": many, f"{name}_200_over_2000": few / many}
    return figures


def seconds(browser: Any, address: str) -> tuple[float, float]:
    """Of opening the page until the viewer shows a group, and of a search in all that the page holds."""
    page = browser.new_page()
    started = perf_counter()
    page.goto(address)
    page.wait_for_selector("#viewer[data-ready]")
    opened_s = perf_counter() - started
    started = perf_counter()
    page.fill("#search", "boxed")
    page.wait_for_selector("#list a")
    searched_s = perf_counter() - started
    page.close()
    return opened_s, searched_s


def page_of_run(run_dir: Path, num_steps: int) -> str:
    """The address of the page of a made-up run, which holds all of its trajectories."""
    rng = random.Random(0)
    for step in range(num_steps):
        groups = [synthetic_group(rng, f"{step}/{number}") for number in range(GROUPS_A_STEP)]
        rows: PGK = [scored.turn_rewards_GK for scored in groups]
        path = bundle_path(run_dir, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_groups(path, groups, rows, rows)
    record = {"label": "gtpo", "choices": {}, "overrides": [], "config": {"seed": 0}}
    (run_dir / "config.json").write_text(json.dumps(record))
    page = write_report(run_dir)
    assert f"{num_steps * GROUPS_A_STEP * GROUP_SIZE:,} trajectories of {num_steps} of" in page.read_text()
    return page.as_uri()
