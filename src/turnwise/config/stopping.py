"""A run is told to stop by SIGINT or SIGTERM, or by a file where no signal reaches it."""

import asyncio
import os
from pathlib import Path
from typing import Any

STOP_FILE = "TURNWISE_STOP_FILE"
"""Environment variable with the path of a file; when it appears, every run that was given it saves and ends.

It is for the jobs of a multirun: on Ctrl-C a launcher kills its workers while they save, or they never hear of it.
"""
INTERRUPTED = 130
"""Exit code of a run that was told to stop: 128 + SIGINT."""
_POLL_S = 0.3


def is_told_to_stop() -> bool:
    """Whether the file that `STOP_FILE` names is there."""
    path = os.environ.get(STOP_FILE)
    return bool(path) and Path(path).exists()


async def cancel_when_told(task: asyncio.Task[Any]) -> None:
    """Waits for the file, then cancels `task`."""
    while not is_told_to_stop():
        await asyncio.sleep(_POLL_S)
    task.cancel()
