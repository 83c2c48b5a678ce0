"""Trains what a study misses by Hydra multiruns, and follows them."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live

from turnwise.config.errors import ConfigError
from turnwise.config.options import CONF_DIR
from turnwise.config.sweep import LAUNCHERS, Cell, environment, multiruns
from turnwise.study.progress import StudyProgress
from turnwise.study.runs import Plan, read_study

LOG = "study.log"
"""What the runs print, in the study's folder."""
STOP_NAME = ".stop"
"""In the study's folder after Ctrl-C: tells its runs to save and end."""


def train_missing(plan: Plan, root: Path, launcher: str, overrides: Sequence[str], console: Console) -> bool:
    """Starts every run of the plan that is not finished, and shows how they go; names those that no start can mend.

    Args:
        plan: The study, as study.json in `root` has it.
        root: Its folder.
        launcher: One of `LAUNCHERS`.
        overrides: What `launcher_overrides` gave.
        console: A live table where it is a terminal, else a line for each run that ends.

    Returns:
        False when Ctrl-C ended it; the runs have saved checkpoints then.

    Raises:
        ConfigError: Another start is at work in the folder, or Hydra refuses the command.
    """
    with (root / LOG).open("a", encoding="utf-8") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by all that inherit it, so by what outlives us too
        except BlockingIOError:
            raise ConfigError(f"another start of this study is at work in {root}") from None
        (root / STOP_NAME).unlink(missing_ok=True)
        progress = StudyProgress(plan, root)
        missing: list[Cell] = []
        for one in read_study(root).skipped:
            cell = (one.seed, one.setting, one.arm)
            if not progress.has_ended(cell):
                missing.append(cell)
                continue
            name = f"{progress.row_name(cell)} seed {one.seed}"
            text = f"{name} has ended, and is run again only when its folder is gone: {one.why}"
            console.print(text, style="red", soft_wrap=True, highlight=False, markup=False)
        count = f"{len(missing)} of {len(list(plan.cells()))} runs to go"
        console.print(f"{count}, in {root}", soft_wrap=True, highlight=False, markup=False)
        live = Live(get_renderable=progress.table, console=console, refresh_per_second=1)

        def start(cells: Sequence[Cell]) -> bool:
            commands = multiruns(plan, cells, root, overrides)
            return all(_follow(command, progress, root / STOP_NAME, log, console) for command in commands)

        with live if console.is_terminal else nullcontext():
            return _start_all(missing, start, progress, log, may_start_again=not LAUNCHERS[launcher].outlives)


def _start_all(
    missing: Sequence[Cell],
    start: Callable[[Sequence[Cell]], bool],
    progress: StudyProgress,
    log: IO[str],
    *,
    may_start_again: bool,
) -> bool:
    """A process that dies takes the runs with it that share it or wait for it.

    So those that had not begun are started again, and then each that was cut off, by itself. A run that failed has
    ended and is not tried twice.
    """
    waiting, has_progress = missing, True
    while waiting and has_progress:
        if not start(waiting):
            return False
        begun = [cell for cell in waiting if progress.has_begun(cell)]
        if not begun and waiting is missing:
            raise ConfigError(f"nothing could be started; {log.name} ends with: {_last_line(Path(log.name))}")
        waiting = [cell for cell in waiting if cell not in begun]
        has_progress = bool(begun) and may_start_again
    cut_off = [cell for cell in missing if progress.has_begun(cell) and not progress.has_ended(cell)]
    return not may_start_again or all(start([cell]) for cell in cut_off)


def _follow(command: Sequence[str], progress: StudyProgress, stop_file: Path, log: IO[str], console: Console) -> bool:
    """Runs `command` with its output in `log`, showing how the study goes; False after Ctrl-C.

    The command has a session of its own: it hears of Ctrl-C through the file, so that running jobs can save.
    """
    with subprocess.Popen(
        command,
        cwd=CONF_DIR.parent,
        env=environment(stop_file),
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while True:
            try:
                is_over = process.poll() is not None
                for line in progress.refresh():
                    if not console.is_terminal:
                        console.print(line, soft_wrap=True, highlight=False, markup=False)
                if is_over:
                    return not stop_file.exists()
                time.sleep(0.5)
            except KeyboardInterrupt:
                if stop_file.exists():
                    os.killpg(process.pid, signal.SIGKILL)
                stop_file.touch()
                console.print("stopping when the runs have saved their checkpoints; again: at once", highlight=False)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "nothing")
