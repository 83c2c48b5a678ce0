"""The work that TRL's step and ours are timed on, and how a process is told to do a step of it.

Both sides import this file, each in an environment of its own, so it needs nothing but the standard library.
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path

NUM_PROBLEMS = 4
GROUP_SIZE = 8
NEW_TOKENS = 48
"""Of every sample: no more, no less."""
NUM_TOKENS = NUM_PROBLEMS * GROUP_SIZE * NEW_TOKENS
"""Sampled and trained in one step."""
LEARNING_RATE = 1e-6
SYSTEM = "Solve the problem by writing Python code in a ```python block that prints the answer."


def conversations(count: int) -> list[list[dict[str, str]]]:
    """Prompts of the same number of tokens, for tokenizers that take digits one by one."""
    rng = random.Random(0)
    return [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"What is {rng.randint(10, 99)} * {rng.randint(10, 99)}?"},
        ]
        for _ in range(count)
    ]


def reward_of(text: str) -> float:
    """A number that differs between samples and costs nothing to find."""
    return float(len(text) % 7)


class Turns:
    """Tells a process when it is its turn: a line on its standard input asks for a step, a line of JSON answers.

    Whatever else the process prints goes to standard error.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def wait(self) -> None:
        """Returns when a step is asked for.

        Raises:
            SystemExit: Nobody asks any more.
        """
        if not sys.stdin.readline():
            raise SystemExit

    def answer(self, **figures: float) -> None:
        """Says how the step went, and the most memory that this process has held so far."""
        self._answers.write(json.dumps({**figures, "peak_mib": peak_mib()}) + "\n")


def peak_mib() -> float:
    """The most memory of this process that was resident at one time, in MiB (Linux's VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def arguments() -> argparse.Namespace:
    """`model` (a folder), `dtype` and `steps` of a side's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("dtype", choices=("float32", "bfloat16"))
    parser.add_argument("steps", type=int)
    return parser.parse_args()
