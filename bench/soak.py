"""A run that goes on for an hour: memory, file descriptors, threads and processes of all it started, over time.

    make soak                                             an hour; writes docs/SOAK.md
    make soak ARGS="--minutes 10 --out /tmp/soak.md"      something shorter, written elsewhere
    make soak ARGS="engine=hf trainer.eval_every=50"      other overrides of the run

The run is then told to stop by SIGTERM, as a scheduler would, and must leave nothing that still runs. Memory is the
proportional set size (PSS), in which pages that processes share are counted once. It is to stay within 5% of what it
was when the run was ten minutes old; the number of descriptors and processes is not to grow at all. Exit code 1 if one
does. Descriptors and threads are summed over the run and all that it started.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median, median_low

import psutil

from run import machine

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "SOAK.md"
RUN = ("trainer.num_steps=1000000", "trainer.eval_every=20", "trainer.save_every=10", "evaluation.num_problems=64")
"""Overrides of the run that is watched, beside the default: evaluations and checkpoints come often."""
EVERY_S = 3.0
WARM_S = 600.0
"""What is allocated once and kept, caches that fill, is there after so many seconds."""
WINDOW_S = 300.0
"""Readings are compared by the medians of so many seconds: a file or a worker may be there for a moment."""
LARGEST_GROWTH = 0.05
PATIENCE_S = 120.0
MIB = 2**20


@dataclass(frozen=True)
class Reading:
    """What a run and its descendants hold, so many seconds after its start."""

    at_s: float
    steps: int
    main_mib: float
    all_mib: float
    descriptors: int
    threads: int
    processes: int


@dataclass(frozen=True)
class Verdict:
    """How far the last readings are from those behind the warm-up: shares of memory, and numbers."""

    main_growth: float
    all_growth: float
    descriptors: int
    processes: int

    @property
    def is_flat(self) -> bool:
        """Whether nothing has grown."""
        memory = max(self.main_growth, self.all_growth)
        return memory <= LARGEST_GROWTH and self.descriptors <= 0 and self.processes <= 0


def main() -> int:
    """Runs, reads, writes the page; 1 where something grew or did not end."""
    parser = argparse.ArgumentParser(description="Watch what a long run holds.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the run goes on")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page that is written")
    given, overrides = parser.parse_known_args()
    if 60 * given.minutes < 2 * WINDOW_S:
        parser.error(f"--minutes={given.minutes:g}: expected >= {2 * WINDOW_S / 60:g}")
    with tempfile.TemporaryDirectory(prefix="turnwise_soak_") as folder:
        words = [*RUN, *overrides]
        readings, left = watch(words, Path(folder), 60 * given.minutes)
        size_mib = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / MIB
    verdict = judged(readings, 60 * given.minutes)
    given.out.write_text(page(words, readings, verdict, left, size_mib))
    print(f"{given.out}: {said(verdict, left)}")
    return 0 if verdict.is_flat and not left else 1


def watch(overrides: Sequence[str], folder: Path, seconds: float) -> tuple[list[Reading], list[str]]:
    """Starts a run in `folder`, reads what it holds, stops it; the readings, and what outlived it or went wrong."""
    command = [sys.executable, str(ROOT / "src" / "main.py"), *overrides, f"hydra.run.dir={folder / 'run'}"]
    readings: list[Reading] = []
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        started, family = time.monotonic(), {psutil.Process(process.pid)}
        while (at_s := time.monotonic() - started) < seconds and process.poll() is None:
            with suppress(psutil.NoSuchProcess):  # one that ends while it is read: the next reading is another
                readings.append(read(psutil.Process(process.pid), at_s, folder / "run" / "metrics.jsonl"))
                family.update(psutil.Process(process.pid).children(recursive=True))
                print(f"  {readings[-1]}", flush=True)
            time.sleep(EVERY_S)
        if process.poll() is not None:
            raise RuntimeError(f"the run ended by itself: {(folder / 'output').read_text()[-2000:]}")
        process.send_signal(signal.SIGTERM)
        wrong = []
        try:
            if (code := process.wait(PATIENCE_S)) != 0:
                wrong.append(f"exit code {code}")
        except subprocess.TimeoutExpired:
            wrong.append(f"still running {PATIENCE_S:g} s after SIGTERM")
            process.kill()
    wrong += [f"process {one.pid} outlives the run" for one in psutil.wait_procs(family, timeout=10)[1]]
    return readings, wrong


def read(process: psutil.Process, at_s: float, metrics: Path) -> Reading:
    """What the process and all below it hold now."""
    everything = [process, *process.children(recursive=True)]
    steps = sum('"loss/num_tokens"' in line for line in metrics.open()) if metrics.exists() else 0
    return Reading(
        at_s=at_s,
        steps=steps,
        main_mib=summed(pss, [process]) / MIB,
        all_mib=summed(pss, everything) / MIB,
        descriptors=summed(psutil.Process.num_fds, everything),
        threads=summed(psutil.Process.num_threads, everything),
        processes=len(everything),
    )


def pss(process: psutil.Process) -> int:
    """Proportional set size in bytes."""
    return process.memory_full_info().pss


def summed(number: Callable[[psutil.Process], int], processes: Sequence[psutil.Process]) -> int:
    """The sum over processes; one that has just ended, or cannot be looked into any more, counts 0."""
    total = 0
    for one in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += number(one)
    return total


def window(readings: Sequence[Reading], start_s: float) -> list[Reading]:
    """Those of a window that begins at `start_s`."""
    return [one for one in readings if start_s <= one.at_s < start_s + WINDOW_S]


def judged(readings: Sequence[Reading], seconds: float) -> Verdict:
    """The windows behind the warm-up against the first of them; a short run has a shorter warm-up.

    Args:
        readings: Of a run in the order of time.
        seconds: How long the run went on. The last window ends there, although the last reading is from before.
    """
    number = int((seconds - min(WARM_S, seconds - 2 * WINDOW_S)) // WINDOW_S)
    first, *later = [window(readings, seconds - back * WINDOW_S) for back in range(number, 0, -1)]

    def growth(name: str) -> float:
        middles = [median(getattr(one, name) for one in part) for part in (first, *later)]
        return max(middles[1:]) / middles[0] - 1

    def more(name: str) -> int:
        middles = [median_low(getattr(one, name) for one in part) for part in (first, later[-1])]
        return middles[1] - middles[0]

    return Verdict(growth("main_mib"), growth("all_mib"), more("descriptors"), more("processes"))


def said(verdict: Verdict, left: Sequence[str]) -> str:
    """The verdict in a line."""
    signed = f"{verdict.main_growth:+.1%} of the run's own memory, {verdict.all_growth:+.1%} with all that it started"
    counts = f"{verdict.descriptors:+d} descriptors, {verdict.processes:+d} processes"
    return "; ".join([f"{'flat' if verdict.is_flat else 'GROWS'}: {signed}, {counts}", *left])


def page(
    overrides: Sequence[str], readings: Sequence[Reading], verdict: Verdict, left: Sequence[str], size_mib: float
) -> str:
    """The record of the soak."""
    heads = ("minutes", "steps", "run MiB", "all MiB", "descriptors", "threads", "processes")
    rows = []
    for number in range(int(readings[-1].at_s // WINDOW_S) + 1):
        part = window(readings, number * WINDOW_S)
        if not part:
            continue
        middles = (median(one.main_mib for one in part), median(one.all_mib for one in part))
        most = [max(getattr(one, name) for one in part) for name in ("descriptors", "threads", "processes")]
        minutes = f"{number * WINDOW_S / 60:g} to {min((number + 1) * WINDOW_S, readings[-1].at_s) / 60:.0f}"
        rows.append([minutes, part[-1].steps, *(f"{middle:.0f}" for middle in middles), *most])
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    table = "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
    end = "and did not end as it should" if left else "saved and ended with exit code 0, and no process was left"
    return f"""# Soak

What a run holds over time, as `make soak` wrote it on {machine()}.

    python src/main.py {" ".join(overrides)}

**{said(verdict, left)}.**

Run MiB is the memory of the run's own process, all MiB that of it and of all that it started: medians of five minutes
(PSS: pages that processes share count once). Descriptors and threads are sums over all of these processes, and
processes is their number: the most that was seen. Growth compares medians of such windows behind the first ten minutes:
of memory the largest with the first, of numbers the last with the first.

The run then got SIGTERM, {end}; its folder had {size_mib:.0f} MiB.

{table}"""


if __name__ == "__main__":
    sys.exit(main())
