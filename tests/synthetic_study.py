"""A made-up study on disk: arms that vary pool, discount and shaping, over seeds, in one setting or along a horizon."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from turnwise.report.summary import Outcome, summarise_run, write_summary
from turnwise.study.runs import Plan, Study, read_study, write_plan
from turnwise.tracker.files import FilesTracker

ARMS: Mapping[str, Mapping[str, Any]] = {
    "gtpo": {},
    "grpo": {"discount": None, "pool": None, "_target_": "turnwise.advantage.group_norm.GroupNormAdvantage"},
    "no_discount": {"discount": 1.0},
    "gamma_0_5": {"discount": 0.5},
    "pool_turn_index": {"pool": "turn_index"},
    "no_discount_pool_turn_index": {"discount": 1.0, "pool": "turn_index"},
    "no_shaping": {"shaping": False},
}
"""Each arm's options that are not those of the first; None: the arm has no such option."""
NUM_TURNS = 3


def record(arm: str, seed: int, setting: str, num_steps: int) -> dict[str, Any]:
    """The config.json of a run."""
    options = {"_target_": "turnwise.advantage.turn_return.TurnReturnAdvantage", "discount": 0.9, "pool": "group"}
    options |= {key: value for key, value in ARMS[arm].items() if key != "shaping"}
    return {
        "label": arm,
        "choices": {"ablation": arm},
        "config": {
            "seed": seed,
            "reward": {"shaping": ARMS[arm].get("shaping", True)},
            "advantage": {key: value for key, value in options.items() if value is not None},
            "task": {"horizon": int(setting or 2)},
            "trainer": {"num_steps": num_steps},
        },
        "overrides": [f"ablation={arm}", f"seed={seed}"],
        "git": {"revision": "0123456789abcdef", "is_dirty": False},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "device": {"type": "cpu", "name": "x86_64", "num_threads": 1},
    }


def figures(rng: random.Random, accuracy: float, has_shaping: bool) -> dict[str, float]:
    """Those of one step."""
    zero = max(0.0, accuracy - 0.6) / 2
    by_turn = {f"reward/turn_{turn}": accuracy * turn / NUM_TURNS - 0.05 for turn in range(1, NUM_TURNS + 1)}
    by_turn |= {f"advantage/turn_{turn}": 0.4 * (turn - 2) + rng.gauss(0, 0.05) for turn in range(1, NUM_TURNS + 1)}
    return {
        "rollout/accuracy": accuracy,
        "rollout/num_turns": 2.0 + accuracy,
        "rollout/tool_use": 0.7 + 0.3 * accuracy,
        "tool/calls": 1.0 + accuracy / 2,
        "tool/ok": 0.8 + 0.1 * accuracy,
        "advantage/zero_groups": zero / 2 if has_shaping else zero,
        "reward/zero_variance_groups_unshaped": zero,
        "reward/zero_variance_groups": zero / 2 if has_shaping else zero,
        "shaping/informed_groups": zero / 2 if has_shaping else 0.0,
        "shaping/sign_flips": 0.02 if has_shaping else 0.0,
        "time/step_s": 3.0,
        "time/rollout_s": 1.75 + rng.uniform(0, 0.1),
        "time/tool_s": 0.5,
    } | by_turn


def write_run(folder: Path, arm: str, seed: int, setting: str, num_steps: int) -> None:
    """A finished run; its accuracy falls with the horizon, and faster with a discount."""
    rng = random.Random(f"{arm} {seed} {setting}")
    discount = ARMS[arm].get("discount", 0.9) or 1.0
    reached = 0.92 - 0.06 * (1 - discount) * float(setting or 2) + 0.02 * random.Random(seed).gauss(0, 1)
    tracker = FilesTracker(folder)
    tracker.log({"eval/chain/accuracy": 0.3}, 0)
    for step in range(num_steps):
        accuracy = 0.3 + (reached - 0.3) * (1 - math.exp(-4 * step / num_steps)) + rng.gauss(0, 0.03)
        tracker.log(figures(rng, min(max(accuracy, 0.0), 1.0), ARMS[arm].get("shaping", True)), step)
    tracker.log({"eval/chain/accuracy": reached + rng.gauss(0, 0.01)}, num_steps)
    tracker.close()
    (folder / "config.json").write_text(json.dumps(record(arm, seed, setting, num_steps)))
    write_summary(folder, summarise_run(folder, outcome=Outcome.finished, why="", wall_s=30.0))


def synthetic_study(
    root: Path,
    *,
    arms: Sequence[str] = tuple(ARMS),
    num_seeds: int = 6,
    settings: Sequence[str] = ("",),
    num_steps: int = 12,
) -> Study:
    """Writes such a study into `root` and reads it back."""
    across = "task.horizon" if len(settings) > 1 else ""
    seeds = tuple(range(num_seeds))
    plan = Plan(
        arms=tuple(arms), seeds=seeds, baseline=arms[0], num_steps=num_steps, across=across, settings=tuple(settings)
    )
    write_plan(root, plan)
    for seed, setting, arm in plan.cells():
        write_run(plan.folder(root, arm, setting, seed), arm, seed, setting, num_steps)
    return read_study(root)
