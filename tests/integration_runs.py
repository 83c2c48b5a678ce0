"""Real runs of the tiny policy, small enough for a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from turnwise import checkpoint
from turnwise.checkpoint import RECORD
from turnwise.report.summary import read_summary
from turnwise.tracker.bundle import bundle_steps

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

IN_PROCESS = (
    "experiment=chain",  # whose tool runs in process
    "task.horizon=2",
    "trainer.learning_rate=1e-5",  # at which answers stay short
)
"""Another task, in half the time, for what has nothing to do with the tool."""

SHARDED = (
    "trainer=fsdp",
    "trainer.device=cpu",
    *IN_PROCESS,
    "rollout.num_problems=2",
    "rollout.group_size=2",
    "evaluation.num_problems=2",
    "trainer.eval_every=2",
    "trainer.save_every=1",
)
"""The same for several processes."""

Run = Callable[..., Path]


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))} for row in rows]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Those of the last checkpoint."""
    return load_file(run_dir / "checkpoints" / "last" / "model.safetensors")


def digests(run_dir: Path) -> dict[str, Any]:
    """Of the files of the last checkpoint, but for the record, which counts the starts, and a file with a random id."""
    files = json.loads((run_dir / "checkpoints" / "last" / "files.json").read_text())
    return {name: file for name, file in files.items() if name not in (RECORD, "optimiser/.metadata")}


def assert_same_run(one: Path, other: Path) -> None:
    """Both left the same figures and the same last checkpoint, bit for bit."""
    assert lines(one) == lines(other)
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert digests(one) == digests(other)


def links(run_dir: Path) -> dict[str, str]:
    folder = run_dir / "checkpoints"
    return {path.name: str(path.readlink()) if path.is_symlink() else "" for path in folder.iterdir()}


def assert_nothing_was_lost(whole: Path, killed: Path) -> None:
    """The killed run left what the whole one left, and nothing besides."""
    assert_same_run(whole, killed)
    assert links(whole) == links(killed)
    assert bundle_steps(whole) == bundle_steps(killed)
    records = [
        {path.name: path.read_text() for path in one.glob("evaluations/*/step_*.json")} for one in (whole, killed)
    ]
    assert records[0] == records[1]
    names = [sorted(str(path.relative_to(one)) for path in one.rglob("*")) for one in (whole, killed)]
    assert names[0] == names[1], "half-written files are left"
    assert read_summary(killed).outcome == "finished"


def newest(run_dir: Path) -> int:
    """The step that the newest whole checkpoint begins with; 0 without any."""
    found = checkpoint.latest(run_dir / "checkpoints")
    return 0 if found is None else int(found.name.removeprefix("step_"))


def flip_a_bit(path: Path) -> None:
    """In the middle of the file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
