"""Real runs of the tiny policy, small enough for a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from turnwise.checkpoint import RECORD

SMALL = (
    "rollout.num_problems=3",
    "rollout.group_size=4",
    "evaluation.num_problems=8",
    "trainer.num_steps=3",
    "trainer.eval_every=2",
    "trainer.save_every=1",
    "trainer.device=cpu",
)
"""A run of three steps in seconds; later overrides of the same key win."""

Run = Callable[..., Path]


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))} for row in rows]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Those of the last checkpoint."""
    return load_file(run_dir / "checkpoints" / "last" / "model.safetensors")


def digests(run_dir: Path) -> dict[str, Any]:
    """Of the files of the last checkpoint but for the record of its run, which counts the starts."""
    files = json.loads((run_dir / "checkpoints" / "last" / "files.json").read_text())
    return {name: file for name, file in files.items() if name != RECORD}


def assert_same_run(one: Path, other: Path) -> None:
    """Both left the same figures and the same last checkpoint, bit for bit."""
    assert lines(one) == lines(other)
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert digests(one) == digests(other)
