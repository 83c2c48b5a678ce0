"""The first signal is heard, the second is the kernel's."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from turnwise.config.stopping import _PASSED_ON_S, on_first_signal

SRC = Path(__file__).parents[2] / "src"
TWICE = """
import os, signal, sys, time
from turnwise.config.stopping import on_first_signal

with on_first_signal(lambda number: print("heard", number.name, flush=True)):
    os.kill(os.getpid(), int(sys.argv[1]))
print("goes on", flush=True)
os.kill(os.getpid(), int(sys.argv[2]))
print("never")
"""


def ended(*numbers: int) -> tuple[int, str]:
    command = [sys.executable, "-c", TWICE, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(SRC)}, timeout=120)
    return done.returncode, done.stdout


def test_the_second_of_two_signals_ends_the_process():
    assert ended(signal.SIGTERM, signal.SIGINT) == (-signal.SIGINT, "heard SIGTERM\ngoes on\n")
    assert ended(signal.SIGINT, signal.SIGINT) == (-signal.SIGINT, "heard SIGINT\ngoes on\n")


PASSED_ON = """
import os, signal, sys, time
from turnwise.config.stopping import on_first_signal

with on_first_signal(lambda number: print("heard", number.name, flush=True)):
    os.kill(os.getpid(), int(sys.argv[1]))
    os.kill(os.getpid(), int(sys.argv[1]))
os.kill(os.getpid(), int(sys.argv[1]))
print("goes on", flush=True)
time.sleep(60)
"""


def test_what_torchrun_passes_on_is_no_second_signal_but_a_later_one_is():
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [sys.executable, "-c", PASSED_ON, str(number.value)]
        environment = {"PYTHONPATH": str(SRC), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"heard {number.name}\n"
            assert process.stdout.readline() == "goes on\n"
            time.sleep(_PASSED_ON_S + 0.5)
            process.send_signal(number)
            assert process.wait(timeout=30) == -number


def test_without_a_signal_all_is_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with on_first_signal(lambda number: None):
        assert all(signal.getsignal(number) is not handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in before} == before


def test_what_a_process_was_started_to_ignore_it_ignores():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with on_first_signal(lambda number: None):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


LAUNCHED = """
import os, signal
from turnwise.config.stopping import on_first_signal, tell_launcher

signal.signal(signal.SIGUSR2, lambda number, _: print("queued again", flush=True))
with on_first_signal(lambda number: print("heard", number.name, flush=True)):
    tell_launcher()
    os.kill(os.getpid(), signal.SIGUSR2)
    print("saves", flush=True)
tell_launcher()
tell_launcher()
with on_first_signal(lambda number: print("never")):
    pass
os.kill(os.getpid(), signal.SIGUSR2)
print("never")
"""


def test_the_signal_of_a_launcher_stops_the_run_before_the_launcher_answers_it():
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHED], capture_output=True, text=True, env={"PYTHONPATH": str(SRC)}, timeout=120
    )
    assert done.stdout == "heard SIGUSR2\nsaves\nqueued again\n", done.stderr
    assert done.returncode == -signal.SIGUSR2, "a second one is the kernel's"


def test_without_a_launcher_its_signal_is_left_alone():
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    with on_first_signal(lambda number: None):
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


DRAWS = """
import asyncio
from rich.live import Live
from turnwise.config.ending import run_to_end

async def work():
    with Live("a panel\\nof two lines", refresh_per_second=50):
        print("draws")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)  # it is drawn again and again

run_to_end(work())
"""
LINE = b"SIGINT: stopping; another one ends it at once"


def test_the_line_about_a_signal_stays_on_a_terminal_that_is_drawn_on():
    terminal, end = pty.openpty()
    environment = {"PYTHONPATH": str(SRC), "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", DRAWS], stdout=end, stderr=end, env=environment) as process:
        os.close(end)
        said = b""
        while b"draws" not in said:
            said += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # where it has ended
            while chunk := os.read(terminal, 4096):
                said += chunk
        os.close(terminal)
    _, was_said, behind = said.partition(LINE)
    assert was_said, said
    row, rows = 0, []
    for move in re.findall(rb"\n|\x1b\[\d*A", behind):
        row += 1 if move == b"\n" else -int(move[2:-1] or 1)
        rows.append(row)
    assert len(rows) > 10, "it was drawn on"
    assert min(rows) > 0, "the panel was drawn over the line"
