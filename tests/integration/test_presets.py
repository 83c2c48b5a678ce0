"""Every algorithm runs: it composes, builds, and trains three real steps of the tiny policy."""

import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from integration_runs import IN_PROCESS, Run
from turnwise.config.label import register_label
from turnwise.config.options import CONF_DIR, register_help
from turnwise.config.schema import register_schemas
from turnwise.report.summary import read_summary
from turnwise.rollout.packing import has_void_turn
from turnwise.tracker.bundle import bundle_path, read_groups

Loss = Callable[..., dict[str, Any]]
PRESETS = sorted((CONF_DIR / "algo").glob("*.yaml"))


@pytest.fixture(scope="module")
def composed_loss() -> Loss:
    """The loss's fields under some overrides, but for what follows the size of the rollouts."""

    @cache
    def compose_loss(*overrides: str) -> dict[str, Any]:
        register_label()
        register_help()
        register_schemas()
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            fields = OmegaConf.to_container(compose("config", list(overrides)).loss, resolve=True)
        assert isinstance(fields, dict)
        return {str(name): value for name, value in fields.items() if name != "constant_length"}

    return compose_loss


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
    run_dir = run(*IN_PROCESS, f"algo={path.stem}", "trainer.num_minibatches=2", "rollout.num_problems=2")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss/value" in row]
    assert [row["step"] for row in steps] == [0, 1, 2]
    assert all(math.isfinite(value) for row in steps for value in row.values())
    assert any(row["loss/grad_norm"] > 0 for row in steps), "something was learnt from"
    for row in steps:
        assert row["update/num_steps"] == min(2, max(1, row["loss/num_sequences"]))
    assert read_summary(run_dir).outcome == "finished"
    for step in range(3):
        for scored, advantages in read_groups(bundle_path(run_dir, step)):
            assert [len(row) for row in advantages] == [len(t.turns) for t in scored.group.trajectories]


@pytest.mark.parametrize("preset", ["algo=grpo", "algo=dapo", "algo=simpletir"])
def test_what_is_dropped_is_neither_in_the_loss_nor_in_its_counts(run: Run, preset: str):
    run_dir = run(preset, "rollout.num_problems=4", "rollout.temperature=1.6")
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    num_dropped = 0
    for row in (row for row in rows if "loss/value" in row):
        groups = [scored for scored, _ in read_groups(bundle_path(run_dir, row["step"]))]
        kept = [
            t
            for scored in groups
            for t in scored.group.trajectories
            if not (preset == "algo=dapo" and scored.has_equal_outcomes)
            and not (preset == "algo=simpletir" and has_void_turn(t))
        ]
        assert row["loss/num_sequences"] == len(kept)
        assert row["loss/num_tokens"] == sum(len(turn.behaviour_logprobs) for t in kept for turn in t.turns)
        every = [t for scored in groups for t in scored.group.trajectories]
        assert row["rollout/void_turns"] == sum(map(has_void_turn, every)) / len(every)
        num_dropped += len(every) - len(kept)
    assert (num_dropped > 0) == (preset != "algo=grpo")


@pytest.mark.parametrize("algo", [path.stem for path in PRESETS])
@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml")))
def test_an_experiment_leaves_to_the_algorithm_what_is_its_own(composed_loss: Loss, experiment: str, algo: str):
    assert composed_loss(f"algo={algo}", f"experiment={experiment}") == composed_loss(f"algo={algo}")
