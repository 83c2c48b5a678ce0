"""Starts runs that a test kills, of one process or of several, from a process that has the imports behind it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil

from several_ranks import environment_of

TESTS = Path(__file__).parent
PATIENCE_S = 240.0


class Moment(NamedTuple):
    """When a run came to `begin` a step, `sample`, `update`, `evaluate`, `save`, or a part of a save or a way back."""

    kind: str
    step: int | None
    time_s: float


class KillableRun:
    """One start of a run, or one rank of it, in the process group `pid`."""

    def __init__(self, pid: int, code: Path, output: Path, moments: Path) -> None:
        self.pid = pid
        self.output = output
        self._code = code
        self._moments = moments

    @property
    def code(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        return int(self._code.read_text()) if self._code.exists() else None

    def moments(self) -> list[Moment]:
        """What this start has begun so far."""
        if not self._moments.exists():
            return []
        rows = [line.split() for line in self._moments.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [Moment(kind, None if step == "-" else int(step), float(at)) for kind, step, at in rows]

    def begun(self) -> list[int]:
        """The steps that this start has begun."""
        return [one.step for one in self.moments() if one.kind == "begin" and one.step is not None]

    def wait_for(self, kind: str, number: int) -> bool:
        """Waits until it has begun `kind` so often; False when it has ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while sum(one.kind == kind for one in self.moments()) < number:
            if self.code is not None:
                return False
            assert time.monotonic() < deadline, f"it never came to {number} x {kind}: {self.output.read_text()}"
            time.sleep(0.002)
        return True

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Waits for its end."""
        deadline = time.monotonic() + patience_s
        while (code := self.code) is None:
            assert time.monotonic() < deadline, f"it does not end: {self.output.read_text()}"
            time.sleep(0.01)
        return code

    def send(self, number: int) -> None:
        """Sends a signal to all of its group, and wakes what holds itself."""
        os.killpg(self.pid, number)
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Sends a signal to all of its group, waits for its end and for that of whatever it had started."""
        below = psutil.Process(self.pid).children(recursive=True)
        self.send(number)
        code = self.wait()
        assert psutil.wait_procs(below, timeout=30)[1] == [], "it leaves processes behind"
        return code

    def wait_until_held(self) -> None:
        """Waits until it has stopped itself where it was to hold."""
        deadline = time.monotonic() + PATIENCE_S
        while psutil.Process(self.pid).status() != psutil.STATUS_STOPPED:
            assert self.code is None, f"it ended before it came to be held: {self.output.read_text()}"
            assert time.monotonic() < deadline, f"it never came to be held: {self.output.read_text()}"
            time.sleep(0.005)


def longest(run: KillableRun, kinds: Sequence[str]) -> dict[str, float]:
    """How long each of `kinds` took at most until the next of them, or a step, began."""
    moments = [one for one in run.moments() if one.kind in ("begin", *kinds)]
    taken: dict[str, float] = {}
    for one, following in pairwise(moments):
        taken[one.kind] = max(taken.get(one.kind, 0.0), following.time_s - one.time_s)
    return taken


Hold = tuple[str, int]
"""The kind of a moment, and its number: there a run stops itself."""


class Starter:
    """Starts runs, one after the other or together."""

    def __init__(self, template: subprocess.Popen[bytes], folder: Path) -> None:
        self._template = template
        self._folder = folder
        self._started: list[KillableRun] = []

    def __call__(
        self,
        arguments: Sequence[str],
        run_dir: Path,
        *,
        environment: Mapping[str, str] | None = None,
        hold: Hold | None = None,
        max_file_bytes: int | None = None,
    ) -> KillableRun:
        """Begins a run in `run_dir`; what it prints and its moments go elsewhere.

        Args:
            arguments: Of the command line.
            run_dir: The run's folder.
            environment: Variables to add.
            hold: Where it stops itself.
            max_file_bytes: What the system refuses to let a file of it grow beyond, as a full disk would.
        """
        output, moments, code = (self._folder / f"{len(self._started)}.{kind}" for kind in ("out", "moments", "code"))
        line = {
            "arguments": [*arguments, f"hydra.run.dir={run_dir}"],
            "output": str(output),
            "moments": str(moments),
            "code": str(code),
            "environment": dict(environment or {}),
            "hold": hold,
            "max_file_bytes": max_file_bytes,
        }
        stdin, stdout = self._template.stdin, self._template.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(line).encode() + b"\n")
        self._started.append(KillableRun(int(stdout.readline()), code, output, moments))
        return self._started[-1]

    def ranks(
        self,
        num_ranks: int,
        arguments: Sequence[str],
        run_dir: Path,
        *,
        hold: Mapping[int, Hold] | None = None,
        max_file_bytes: Mapping[int, int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> list[KillableRun]:
        """Begins the ranks of one run, as torchrun would.

        Args:
            num_ranks: Processes.
            arguments: Of each command line.
            run_dir: The run's folder.
            hold: Where single ranks stop themselves.
            max_file_bytes: As for one run, of single ranks.
            environment: What all of them find, beside where they meet or in its place.
        """
        return [
            self(
                arguments,
                run_dir,
                environment={**of_rank, **(environment or {})},
                hold=(hold or {}).get(rank),
                max_file_bytes=(max_file_bytes or {}).get(rank),
            )
            for rank, of_rank in enumerate(environment_of(num_ranks))
        ]

    def end(self) -> None:
        """Kills whatever of them is still there."""
        for run in self._started:
            if run.code is None:
                with suppress(ProcessLookupError):
                    os.killpg(run.pid, signal.SIGKILL)


@contextmanager
def starter(folder: Path) -> Iterator[Starter]:
    """The process that starts runs; it ends with the block, and a run that is still going with it.

    Args:
        folder: For what the runs print.
    """
    paths = [str(TESTS.parent / "src"), str(TESTS)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(
        [sys.executable, str(TESTS / "run_template.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=environment,
    ) as template:
        assert template.stdout is not None
        assert template.stdout.readline() == b"ready\n"
        runs = Starter(template, folder)
        try:
            yield runs
        finally:
            runs.end()
            template.kill()
