"""The first signal is heard, the second is the kernel's."""

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
