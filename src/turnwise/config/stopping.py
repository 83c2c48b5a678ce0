"""A run is told to stop by SIGINT or SIGTERM, or by a file where no signal reaches it."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, Timer
from time import monotonic
from typing import Any

from turnwise.ranks import current, has_torchrun

STOP_FILE = "TURNWISE_STOP_FILE"
"""Environment variable with the path of a file; when it appears, every run that was given it saves and ends.

It is for the jobs of a multirun: on Ctrl-C a launcher kills its workers while they save, or they never hear of it.
"""
INTERRUPTED = 130
"""Exit code of a run that was told to stop by SIGINT or the file: 128 + SIGINT. After SIGTERM it is 0."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OF_LAUNCHER = signal.SIGUSR2
"""What submitit has Slurm send before a job's time is over, and answers by putting the job into the queue again."""
_SHOW_CURSOR = b"\x1b[?25h"
_POLL_S = 0.3
_PASSED_ON_S = 3.0
"""Within this time of the first signal another one is torchrun's, which passes on what it was sent together with us."""


class Preempted(KeyboardInterrupt):
    """Told to stop by SIGTERM, as whoever lends the machine does before taking it away: no failure."""


class _Launcher:
    """What the launcher of a job does at its signal, once that came while the job ran."""

    def __init__(self) -> None:
        self.answer: Callable[[], Any] | None = None


_launcher = _Launcher()


def tell_launcher() -> None:
    """Where it was a launcher's signal that stopped the run, which has saved by now, lets the launcher answer to it.

    It may put the job into its queue again, and does not return then.
    """
    answer, _launcher.answer = _launcher.answer, None
    if answer is not None:
        answer()


def is_told_to_stop() -> bool:
    """Whether the file that `STOP_FILE` names is there."""
    path = os.environ.get(STOP_FILE)
    return bool(path) and Path(path).exists()


class Stop:
    """What is called when a run is told to stop: `act`, which several ranks replace, since they must agree first.

    Attributes:
        why: What is stuck, where that is the reason; the run has failed then.
    """

    def __init__(self) -> None:
        self.act: Callable[[], Any] = lambda: None
        self.why = ""

    def __call__(self) -> None:
        """Acts."""
        self.act()


async def stop_when_told(stop: Stop) -> None:
    """Waits for the file, then calls `stop`."""
    while not is_told_to_stop():
        await asyncio.sleep(_POLL_S)
    stop()


def tell_of(number: signal.Signals) -> None:
    """Says, from the first rank, that the run has heard a signal.

    It does so from a thread: whoever draws on the terminal holds locks, and a handler must not wait for them.
    """
    if current().is_first:
        later = f", after {_PASSED_ON_S:g} seconds," if has_torchrun() else ""
        line = f"{number.name}: stopping; another one{later} ends it at once"
        Thread(target=print, args=(line,), kwargs={"file": sys.stderr, "flush": True}, daemon=True).start()


@contextmanager
def on_first_signal(act: Callable[[signal.Signals], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM calls `act`; the next of either is the kernel's, which ends the process at once.

    That stays so until the process ends: whoever has asked twice does not wait for an operation that hangs. Without a
    signal everything is as before on the way out. What the process was started to ignore, it goes on to ignore. Where
    torchrun started this process, a second signal counts from three seconds after the first.

    SIGUSR2 is heeded too where a launcher waits for it, whose own answer is put off until `tell_launcher`.

    Args:
        act: Called between two instructions of the main thread, so it should do little.
    """
    since: float | None = None

    def heed(number: int, _: object) -> None:
        nonlocal since
        if since is not None:
            if monotonic() - since > _PASSED_ON_S:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        since = monotonic()
        if has_torchrun():
            later = Timer(_PASSED_ON_S, _leave_to_the_kernel, [heeded])
            later.daemon = True
            later.start()
        else:
            for one in heeded:
                signal.signal(one, signal.SIG_DFL)
        if number == _OF_LAUNCHER and callable(answer := before[_OF_LAUNCHER]):
            _launcher.answer = lambda: answer(number, None)
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), _SHOW_CURSOR)  # which a display hides, and nobody would bring back
        act(signal.Signals(number))

    before = {one: signal.getsignal(one) for one in (*_SIGNALS, _OF_LAUNCHER)}
    heeded = [one for one in _SIGNALS if before[one] is not signal.SIG_IGN]
    heeded += [_OF_LAUNCHER] if callable(before[_OF_LAUNCHER]) else []
    for one in heeded:
        signal.signal(one, heed)
    try:
        yield
    finally:
        for one in heeded:
            if since is None and signal.getsignal(one) is heed:
                signal.signal(one, before[one])


def _leave_to_the_kernel(signals: Sequence[signal.Signals]) -> None:
    """Has them end the process at once; from any thread, where `signal.signal` is for the main one alone."""
    for one in signals:
        ctypes.pythonapi.PyOS_setsig(int(one), ctypes.c_void_p(int(signal.SIG_DFL)))
