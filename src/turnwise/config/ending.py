"""How a run ends: told to stop, by a failure, or because it is done; and what it leaves behind in each case."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from rich.console import Console

from turnwise.config.errors import GOES_ON
from turnwise.config.stopping import INTERRUPTED, Preempted, Stop, on_first_signal, stop_when_told, tell_of
from turnwise.config.wiring import say
from turnwise.disk import DISK_ERRORS
from turnwise.protocols import Tracker
from turnwise.ranks import current, noticing_loss
from turnwise.report.closing import closing_table
from turnwise.report.evaluations import write_table
from turnwise.report.page import write_report
from turnwise.report.summary import Outcome, read_summary, summarise_run, write_summary
from turnwise.tracker.health import read_alarms
from turnwise.watchdog import Stuck

T = TypeVar("T")


def run_to_end(work: Coroutine[Any, Any, T], stop: Stop | None = None) -> T:
    """Runs `work`; SIGINT, SIGTERM and the file of `stopping.STOP_FILE` cancel it, or do what `work` sets in `stop`.

    It may finish what it must before KeyboardInterrupt is raised, after SIGTERM as `Preempted`. A second signal ends
    the process at once, whatever it is at.

    Raises:
        KeyboardInterrupt: The run was told to stop.
        Stuck: It was told so because something is stuck.
    """
    told: list[signal.Signals] = []
    stop = stop or Stop()

    async def cancellable() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        stop.act = task.cancel

        def first(number: signal.Signals) -> None:
            told.append(number)
            loop.call_soon_threadsafe(stop)
            tell_of(number)

        watcher = asyncio.create_task(stop_when_told(stop))
        with on_first_signal(first):
            try:
                return await work
            finally:
                watcher.cancel()

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        of_all = current().gather((told, stop.why))  # all ranks stop when one of them is told to
        if stuck := next(filter(None, (why for _, why in of_all)), ""):
            raise Stuck(stuck) from None
        signals = chain.from_iterable(numbers for numbers, _ in of_all)
        raise (Preempted if signal.SIGTERM in signals else KeyboardInterrupt) from None


def seconds_before(run_dir: Path) -> float:
    """What earlier starts of the run took, as far as they came to write it down."""
    try:
        return read_summary(run_dir).wall_s
    except (FileNotFoundError, ValueError):
        return 0.0


@contextmanager
def closing(
    run_dir: Path, tracker: Tracker | ExitStack, console: Console, *, has_checkpoints: bool = True
) -> Iterator[None]:
    """Whatever ends the run: closes the tracker, or those on a stack, and leaves and prints how it ended.

    That is summary.json, report.html and the closing table.

    Args:
        run_dir: The run's folder.
        tracker: What to close.
        console: Where to print.
        has_checkpoints: Whether it is from its checkpoints that the run goes on.
    """
    started = perf_counter() - seconds_before(run_dir)
    outcome, why = Outcome.failed, ""
    try:
        with noticing_loss(lambda: _what_next(run_dir) if has_checkpoints else GOES_ON):
            yield
        outcome = Outcome.finished
    except KeyboardInterrupt as told:
        outcome, why = Outcome.stopped, f"interrupted; {GOES_ON} from here"
        raise SystemExit(0 if isinstance(told, Preempted) else INTERRUPTED) from None
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise
    finally:
        # A first signal must not cost the report; after one that stopped the run, the next ends the process anyway.
        with nullcontext() if outcome is Outcome.stopped else on_first_signal(lambda _: None):
            try:
                _leave_word(run_dir, tracker, console, outcome, why, perf_counter() - started)
            except OSError as error:
                if outcome is Outcome.finished or error.errno not in DISK_ERRORS:
                    raise
                say(console, f"warning: {error}: there is no report")  # why the run ended matters more
            if outcome is not Outcome.failed:
                current().wait()  # else torchrun ends the first rank in its report, since another has ended with 130


def _what_next(run_dir: Path) -> str:
    last = (run_dir / "checkpoints" / "last").resolve()
    if last.is_dir():
        return f"{GOES_ON} after {last.name.replace('_', ' ')}"
    return "there is no checkpoint yet: the same command with this hydra.run.dir begins anew"


def _leave_word(
    run_dir: Path, tracker: Tracker | ExitStack, console: Console, outcome: Outcome, why: str, wall_s: float
) -> None:
    try:
        tracker.close()
    finally:
        if current().is_first:
            summary = summarise_run(run_dir, outcome=outcome, why=why, wall_s=wall_s)
            write_summary(run_dir, summary)
            results = write_table(run_dir)
            write_report(run_dir)
            console.print(closing_table(run_dir, summary, results, list(read_alarms(run_dir))))
