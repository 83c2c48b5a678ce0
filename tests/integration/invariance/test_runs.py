"""What must not change a whole run: shaping that is off, and starting it again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from integration_runs import IN_PROCESS, Run
from turnwise.reward import terms


def figures(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))} for row in rows]


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = (load_file(folder / "checkpoints" / "last" / "model.safetensors") for folder in (one, other))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("algo", ["gtpo", "grpo"])
def test_shaping_that_is_off_is_a_run_that_knows_no_shaping(run: Run, monkeypatch: pytest.MonkeyPatch, algo: str):
    off = run(*IN_PROCESS, f"algo={algo}", "reward.shaping=false", folder="off")
    # The other run's rewards are made without ever asking what shaping would give.
    monkeypatch.setattr(terms, "shaping_bonus_G", lambda peers_G, _: (0.0,) * len(peers_G))
    unshaped = run(*IN_PROCESS, f"algo={algo}", "reward.shaping=true", folder="unshaped")
    assert figures(off) == figures(unshaped)
    assert_same_weights(off, unshaped)


@pytest.mark.parametrize(
    "overrides",
    [
        ("algo=gtpo", "reward.shaping=true"),
        ("algo=gtpo_gspo", "trainer.num_epochs=2", "trainer.num_minibatches=2"),
        ("algo=igpo", "loss.kl_weight=0.01", "loss.entropy_weight=0.001"),
        ("algo=gigpo", "loss.correction=mask", "loss.correction_level=turn"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_the_same_seed_gives_the_same_figures_and_weights(run: Run, overrides: tuple[str, ...]):
    one, other = (run(*IN_PROCESS, *overrides, folder=folder) for folder in ("one", "other"))
    assert figures(one) == figures(other)
    assert_same_weights(one, other)


def test_micro_batches_change_a_run_by_rounding_only(run: Run):
    small = run(*IN_PROCESS, "trainer.num_steps=1", "trainer.token_budget=256", folder="small")
    large = run(*IN_PROCESS, "trainer.num_steps=1", "trainer.token_budget=100000", folder="large")
    (_, step, _), (_, other, _) = figures(small), figures(large)
    assert step["update/num_micro_batches"] > other["update/num_micro_batches"] == 1
    for name in ("loss/value", "loss/grad_norm", "loss/entropy", "mismatch/kl"):
        assert step[name] == pytest.approx(other[name], rel=1e-4, abs=1e-7)
