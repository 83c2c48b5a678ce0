"""Peak memory of a process that loads policy and engine and updates twice, beside what `mode=doctor` estimates."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from prepared import smollm2
from table import Table, rounded
from turnwise.config.doctor.sizing import Sized
from turnwise.config.sweep import compose_components

HERE = Path(__file__).parent
MIB = 2**20
HEADS = ("tokens", "checkpointing", "adapter rank", "measured MiB", "estimated MiB", "estimated / measured")


class Case(NamedTuple):
    """A size of micro-batches and what changes their memory."""

    token_budget: int
    gradient_checkpointing: bool = False
    lora_rank: int = 0


TINY = (Case(2048), Case(8192), Case(8192, gradient_checkpointing=True))
SMOLLM2 = (Case(512), Case(1024, gradient_checkpointing=True), Case(512, lora_rank=8))


def measure() -> dict[str, Table]:
    """A table for each model.

    Raises:
        NotPrepared: SmolLM2 is missing.
    """
    path = smollm2()
    reading = "What is estimated is to be within 20% of what was measured: 0.8 to 1.2 in the last column."
    models = {
        "tiny": ([], TINY),
        "smollm2": (["experiment=smollm2_arithmetic", f"model.path={path}"], SMOLLM2),
    }
    return {
        name: Table(HEADS, [row(overrides, case) for case in cases], f"Updates of {name}. {reading}")
        for name, (overrides, cases) in models.items()
    }


def row(overrides: list[str], case: Case) -> list[float]:
    """What a case takes, and what it was expected to."""
    measured, estimated = compare(overrides, case)
    figures = (measured / MIB, estimated / MIB, estimated / measured)
    head = (case.token_budget, int(case.gradient_checkpointing), case.lora_rank)
    print(f"  {head}: {figures[0]:.0f} MiB, estimated {figures[1]:.0f}", flush=True)
    return [*head, *map(rounded, figures)]


def compare(overrides: list[str], case: Case) -> tuple[float, float]:
    """Peak bytes of a process of its own, and the estimate for the same settings."""
    settings = [
        *overrides,
        "trainer.device=cpu",
        f"trainer.token_budget={case.token_budget}",
        f"trainer.gradient_checkpointing={str(case.gradient_checkpointing).lower()}",
        "trainer.dtype=float32",
        f"model.lora_rank={case.lora_rank}",
    ]
    command = [sys.executable, str(HERE / "memory_peak.py"), *settings]
    paths = os.pathsep.join([str(HERE), str(HERE.parent / "src")])
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths}
    )
    if ended.returncode:
        raise RuntimeError(f"memory_peak.py ended: {ended.stderr[-2000:]}")
    found = json.loads(ended.stdout.splitlines()[-1])
    components = compose_components(settings, label="memory")
    estimate = Sized.of(components).memory(components, cache_bytes=0, runtime_bytes=found["empty"])
    return found["peak"], estimate.total
