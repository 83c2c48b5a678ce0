"""Forks a run of `src/main.py` for every line on its standard input; `killed_runs` starts it as a script.

It has imported what a run needs, and a fork of it begins in a fraction of a second. A fork is a process group of its
own and does what the program does. All that is added is a line in the file of moments when it begins a step, samples,
evaluates, updates or saves, and within a checkpoint: when it writes the weights, its parts of the optimiser's state,
what one process knows, the manifest, and when it renames the checkpoint and points at it. Where a run goes back: when
it takes checkpoints back, restores one, keeps what it gives up, and writes the alarm down. The line says which of these
it is, the step where it is known, and the time. The exit code is left in a file when the fork has ended.
"""

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra  # noqa: F401
import transformers  # noqa: F401

import main
from turnwise import checkpoint, rotation
from turnwise.config import health, launch, modes, schema  # noqa: F401
from turnwise.evaluation.evaluate import Evaluator
from turnwise.model.policy import TorchPolicy
from turnwise.rollout.sampler import RolloutSampler
from turnwise.trainer import Trainer

for module in (
    "turnwise.model.causal_lm",
    "turnwise.model.sharding",
    "turnwise.model.tiny",
    "transformers.models.llama.modeling_llama",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "fsspec.implementations.local",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
):
    importlib.import_module(module)


class Notes:
    """Writes the moments down; at the one that is to be held the process stops itself, until SIGCONT or its end."""

    def __init__(self, path: str, hold: tuple[str, int] | None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._hold = None if hold is None else tuple(hold)
        self._count = Counter[str]()

    def of(self, owner: Any, name: str, moment: Callable[..., str]) -> None:
        """Has `moment` written down whenever `owner`'s function begins."""
        whole = getattr(owner, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            text = moment(*arguments, **named)
            kind = text.split()[0]
            self._count[kind] += 1
            os.write(self._file, f"{text} {time.monotonic()}\n".encode())
            if (kind, self._count[kind]) == self._hold:
                os.kill(os.getpid(), signal.SIGSTOP)
            return whole(*arguments, **named)

        setattr(owner, name, noted)


def become(
    arguments: list[str],
    output: str,
    moments: str,
    environment: dict[str, str],
    hold: tuple[str, int] | None,
    max_file_bytes: int | None,
) -> None:
    """What the fork does before it is the program."""
    os.setsid()
    for path, descriptor in ((os.devnull, 0), (output, 1), (output, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.update(environment)
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    notes = Notes(moments, hold)
    notes.of(Trainer, "refresh", lambda trainer, step: f"begin {step}")
    notes.of(Evaluator, "__call__", lambda evaluator, eval_sets, step: f"evaluate {step}")
    notes.of(RolloutSampler, "sample", lambda *_, **__: "sample -")
    notes.of(TorchPolicy, "update", lambda *_: "update -")
    notes.of(checkpoint, "save", lambda folder, step, **_: f"save {step}")
    notes.of(TorchPolicy, "save_pretrained", lambda *_: "weights -")
    notes.of(checkpoint, "write_parts", lambda *_: "parts -")
    notes.of(checkpoint, "_complete", lambda *_: "complete -")
    notes.of(checkpoint, "write_manifest", lambda *_: "manifest -")
    notes.of(checkpoint, "publish", lambda *_: "publish -")
    notes.of(rotation, "point", lambda *_: "point -")
    notes.of(checkpoint, "take_back", lambda *_: "back -")
    notes.of(checkpoint, "restore", lambda *_: "restore -")
    notes.of(health, "_keep_evidence", lambda *_: "evidence -")
    notes.of(health, "append_alarm", lambda *_: "alarm -")
    sys.argv = ["main.py", *arguments]


def keep(pid: int, code: str) -> None:
    """Waits for the end of a run and leaves its exit code."""
    print(pid, flush=True)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    draft = Path(f"{code}.draft")
    draft.write_text(str(ended))
    draft.rename(code)
    os._exit(0)


gc.freeze()  # what the forks share they need not look through, nor copy thereby
is_fork = False
print("ready", flush=True)
while not is_fork and (line := sys.stdin.readline()):
    settings = json.loads(line)
    code = settings.pop("code")
    if os.fork():
        continue  # several runs may be under way, and each has a process that waits for it
    if pid := os.fork():
        keep(pid, code)
    is_fork = True
    become(**settings)
if is_fork:
    main.main()
