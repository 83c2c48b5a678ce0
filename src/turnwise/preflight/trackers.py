"""The tracker can be reached, or starts."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from turnwise.preflight.finding import Finding
from turnwise.protocols import Tracker
from turnwise.tracker.wandb import Wandb, WandbMode, resolve_mode

MAX_WAIT_S = 5.0
WANDB_SERVER = "https://api.wandb.ai"


class Starts(Protocol):
    """A tracker before it starts."""

    def start(self, run_dir: Path, *, first_step: int, label: str, config: Mapping[str, Any]) -> Tracker:
        """The live tracker."""
        ...


def check_tracker(settings: Starts, *, label: str, config: Mapping[str, Any], finding: Finding) -> None:
    """Asks the server of a tracker that has one; any other is started in a folder for the purpose, and takes a figure.

    Args:
        settings: The run's tracker.
        label: The run's.
        config: The run's, resolved.
        finding: Where to say it.
    """
    if isinstance(settings, Wandb):
        mode = resolve_mode(settings.mode)
        finding.note(f"wandb {mode}, project {settings.project}")
        if mode is WandbMode.online:
            _ask_server(os.environ.get("WANDB_BASE_URL", WANDB_SERVER), finding)
            return  # a start would leave a run on the server
        if mode is WandbMode.offline:
            finding.note("figures wait in the run's folder for `wandb sync`")
    with tempfile.TemporaryDirectory() as folder:
        try:
            tracker = settings.start(Path(folder), first_step=0, label=label, config=config)
            try:
                tracker.log({"doctor/trial": 1.0}, 0)
            finally:
                tracker.close()
        except Exception as error:  # whatever a tracker raises, a run would end with it
            finding.fail(
                f"{type(settings).__name__} does not start: {type(error).__name__}: {error}",
                "tracker=files needs nothing but the run's folder",
            )
            return
    finding.note(f"{type(settings).__name__} starts and takes figures")


def _ask_server(url: str, finding: Finding) -> None:
    import httpx

    try:
        answer = httpx.get(url, timeout=MAX_WAIT_S, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        finding.fail(
            f"{url} does not answer within {MAX_WAIT_S:g} s: {type(error).__name__}: {error}",
            "tracker.mode=offline and `wandb sync` afterwards, or see network, proxy and WANDB_BASE_URL",
        )
        return
    if answer.status_code >= 500:
        finding.fail(f"{url} answers {answer.status_code}", "tracker.mode=offline and `wandb sync` afterwards")
    else:
        finding.note(f"{url} answers")
