"""Every algorithm runs: it composes, builds, and trains three real steps of the tiny policy."""

import json
import math
import re
from pathlib import Path

import pytest

from integration_runs import Run
from turnwise.config.options import CONF_DIR
from turnwise.report.summary import read_summary
from turnwise.tracker.bundle import bundle_path, read_groups

PRESETS = sorted((CONF_DIR / "algo").glob("*.yaml"))


def test_the_algorithms_of_the_comparison_are_there():
    assert {path.stem for path in PRESETS} >= {
        *("gtpo", "grpo", "dr_grpo", "rloo", "reinforce_pp", "dapo", "gspo", "gtpo_gspo", "mt_grpo", "hybrid_turn"),
        *("igpo", "gigpo", "simpletir"),
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_the_head_of_a_preset_says_what_it_is_and_cites_it(path: Path):
    package, head, *_ = path.read_text().splitlines()
    assert package == "# @package _global_"
    assert re.match(r"# [A-Z].*\barXiv \d{4}\.\d{5}\b.*[.;:]", head)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_three_steps(run: Run, path: Path):
    run_dir = run(f"algo={path.stem}", "trainer.num_minibatches=2", "rollout.num_problems=2")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss/value" in row]
    assert [row["step"] for row in steps] == [0, 1, 2]
    assert all(math.isfinite(value) for row in steps for value in row.values())
    assert any(row["loss/grad_norm"] > 0 for row in steps), "something was learnt from"
    assert read_summary(run_dir).outcome == "finished"
    for step in range(3):
        for scored, advantages in read_groups(bundle_path(run_dir, step)):
            assert [len(row) for row in advantages] == [len(t.turns) for t in scored.group.trajectories]
