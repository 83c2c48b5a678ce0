"""Seconds of whole steps of a run, beside what `mode=doctor` estimated of them right before."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from prepared import ROOT, smollm2
from table import Table, rounded

HEADS = (
    "trajectories of a problem",
    "estimated s",
    "measured s",
    "estimated / measured",
    "sampling, estimated s",
    "sampling, measured s",
    "update, estimated s",
    "update, measured s",
)
NUM_STEPS = 4
"""Of which the first does not count."""
ESTIMATE = re.compile(r"about (\S+) s a step: prompts (\S+), decoding (\S+), update (\S+);")
GROUP_SIZES = {"tiny": (4, 16), "chain": (8,), "smollm2": (8,)}


def measure() -> dict[str, Table]:
    """A table for each model and task.

    Raises:
        NotPrepared: SmolLM2 is missing.
    """
    settings = {
        "tiny": [],
        "chain": ["experiment=chain"],
        "smollm2": ["experiment=smollm2_arithmetic", f"model.path={smollm2()}"],
    }
    reading = "Measured: the median of three steps, with tools, rewards and all else; the estimate is without these."
    return {
        name: Table(HEADS, [row(overrides, size) for size in GROUP_SIZES[name]], f"Steps of {name}. {reading}")
        for name, overrides in settings.items()
    }


def row(overrides: list[str], group_size: int) -> list[float]:
    """What was estimated and what a run then took."""
    settings = [*overrides, "trainer.device=cpu", "evaluation.num_problems=2", f"rollout.group_size={group_size}"]
    with TemporaryDirectory() as folder:
        run("mode=doctor", *settings, folder=Path(folder) / "doctor")
        total_s, prompts_s, decoding_s, update_s = estimated(Path(folder) / "doctor")
        run(*settings, f"trainer.num_steps={NUM_STEPS}", "trainer.eval_every=1000", folder=Path(folder) / "run")
        measured = {
            name: median(step[f"time/{name}_s"] for step in steps(Path(folder) / "run")[1:])
            for name in ("step", "rollout", "update")
        }
    figures = [total_s, measured["step"], total_s / measured["step"]]
    figures += [prompts_s + decoding_s, measured["rollout"], update_s, measured["update"]]
    print(f"  {group_size}: {', '.join(f'{figure:.3g}' for figure in figures)}", flush=True)
    return [group_size, *map(rounded, figures)]


def run(*overrides: str, folder: Path) -> None:
    """The entry point in a process of its own."""
    command = [sys.executable, str(ROOT / "src" / "main.py"), *overrides, f"hydra.run.dir={folder}"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} ended: {ended.stdout[-1000:]}{ended.stderr[-1000:]}")


def estimated(folder: Path) -> Sequence[float]:
    """Seconds of a step, and of its prompts, decoding and update."""
    found = ESTIMATE.search((folder / "doctor.json").read_text())
    if found is None:
        raise RuntimeError(f"{folder}/doctor.json says nothing of a step's time")
    return [float(figure) for figure in found.groups()]


def steps(folder: Path) -> list[dict[str, Any]]:
    """The figures of each."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "time/step_s" in row]
