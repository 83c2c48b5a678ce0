"""Forks a run of `src/main.py` for every line on its standard input; `killed_runs` starts it as a script.

It has imported what a run needs, and a fork of it begins in a fraction of a second. A fork is a process group of its
own and does what the program does. All that is added is a line in the file of moments when it begins a step, samples,
evaluates, updates or saves: which of these it is, the step where it is known, and the time.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import hydra  # noqa: F401
import transformers  # noqa: F401

import main
from turnwise import checkpoint
from turnwise.config import launch, modes  # noqa: F401
from turnwise.evaluation.evaluate import Evaluator
from turnwise.model.policy import TorchPolicy
from turnwise.rollout.sampler import RolloutSampler
from turnwise.trainer import Trainer

for name in ("causal_lm", "tiny"):
    importlib.import_module(f"turnwise.model.{name}")
importlib.import_module("transformers.models.llama.modeling_llama")


def note(owner: Any, name: str, moment: Callable[..., str], moments: int) -> None:
    whole = getattr(owner, name)

    def noted(*arguments: Any, **named: Any) -> Any:
        os.write(moments, f"{moment(*arguments)} {time.monotonic()}\n".encode())
        return whole(*arguments, **named)

    setattr(owner, name, noted)


def become(arguments: list[str], output: str, moments: str) -> None:
    """What the fork does before it is the program."""
    os.setsid()
    for path, descriptor in ((os.devnull, 0), (output, 1), (output, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
    told = os.open(moments, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    note(Trainer, "refresh", lambda trainer, step: f"begin {step}", told)
    note(Evaluator, "__call__", lambda evaluator, eval_sets, step: f"evaluate {step}", told)
    note(RolloutSampler, "sample", lambda *_: "sample -", told)
    note(TorchPolicy, "update", lambda *_: "update -", told)
    note(checkpoint, "save", lambda folder, step: f"save {step}", told)
    sys.argv = ["main.py", *arguments]


is_fork = False
print("ready", flush=True)
while not is_fork and (line := sys.stdin.readline()):
    if pid := os.fork():
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    else:
        is_fork = True
        become(**json.loads(line))
if is_fork:
    main.main()
