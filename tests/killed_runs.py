"""Starts runs that a test kills, from a process that has the imports behind it."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import psutil

TESTS = Path(__file__).parent
PATIENCE_S = 240.0


class Moment(NamedTuple):
    """When a run began something: `begin` a step, `evaluate`, `sample`, `update` or `save`."""

    kind: str
    step: int | None
    time_s: float


class KillableRun:
    """One start of a run, in the process group `pid`."""

    def __init__(self, pid: int, told: IO[bytes], output: Path, moments: Path) -> None:
        self.pid = pid
        self.output = output
        self._told = told
        self._moments = moments
        self._code: int | None = None

    @property
    def code(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        if self._code is None and select.select([self._told], [], [], 0)[0]:
            self._code = int(self._told.readline())
        return self._code

    def moments(self) -> list[Moment]:
        """What this start has begun so far."""
        if not self._moments.exists():
            return []
        rows = [line.split() for line in self._moments.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [Moment(kind, None if step == "-" else int(step), float(at)) for kind, step, at in rows]

    def wait_for(self, kind: str, number: int) -> bool:
        """Waits until it has begun `kind` so often; False when it has ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while sum(one.kind == kind for one in self.moments()) < number:
            if self.code is not None:
                return False
            assert time.monotonic() < deadline, f"it never came to {number} x {kind}: {self.output.read_text()}"
            time.sleep(0.002)
        return True

    def wait(self) -> int:
        """Waits for its end."""
        deadline = time.monotonic() + PATIENCE_S
        while (code := self.code) is None:
            assert time.monotonic() < deadline, f"it does not end: {self.output.read_text()}"
            time.sleep(0.01)
        return code

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Sends a signal to all of its group, waits for its end and for that of whatever it had started."""
        below = psutil.Process(self.pid).children(recursive=True)
        os.killpg(self.pid, number)
        code = self.wait()
        assert psutil.wait_procs(below, timeout=30)[1] == [], "it leaves processes behind"
        return code


class Starter:
    """Starts runs one after the other."""

    def __init__(self, template: subprocess.Popen[bytes], folder: Path) -> None:
        self._template = template
        self._folder = folder
        self._count = 0

    def __call__(self, arguments: Sequence[str], run_dir: Path) -> KillableRun:
        """Begins a run in `run_dir`; what it prints and its moments go elsewhere."""
        self._count += 1
        output, moments = (self._folder / f"{self._count}.{kind}" for kind in ("out", "moments"))
        line = {"arguments": [*arguments, f"hydra.run.dir={run_dir}"], "output": str(output), "moments": str(moments)}
        stdin, stdout = self._template.stdin, self._template.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(line).encode() + b"\n")
        return KillableRun(int(stdout.readline()), stdout, output, moments)


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
        try:
            yield Starter(template, folder)
        finally:
            for child in psutil.Process(template.pid).children():
                os.killpg(child.pid, signal.SIGKILL)
            template.kill()
