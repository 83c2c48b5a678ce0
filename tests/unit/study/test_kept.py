import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from made_runs import NUM_STEPS, leave_run
from turnwise.study.kept import checked
from turnwise.study.runs import Plan, read_study, write_plan
from turnwise.tracker.bundle import bundle_path

PLAN = Plan(arms=("gtpo", "grpo"), seeds=(0, 1), baseline="gtpo", num_steps=NUM_STEPS)
BUNDLE = gzip.compress(json.dumps({"problem": "x" * 5000}).encode() + b"\n")


def written(root: Path, plan: Plan = PLAN, every: int = 1) -> Path:
    write_plan(root, plan)
    for seed, setting, arm in plan.cells():
        folder = plan.folder(root, arm, setting, seed)
        leave_run(folder, arm, seed, tracker={"save_groups_every": every})
        for step in range(0, plan.num_steps, every) if every else ():
            bundle_path(folder, step).write_bytes(BUNDLE)
    return root


def damage(root: Path) -> str:
    """What is wrong with grpo, seed 1; nothing is with the others, and all of them count."""
    study = checked(read_study(root))
    assert len(study.runs) == 4
    assert [(one.arm, one.seed) for one in study.damaged] == [("grpo", 1)]
    return study.damaged[0].why


@pytest.mark.parametrize("every", [0, 1, 2])
def test_a_sound_study_has_no_damage(tmp_path: Path, every: int) -> None:
    assert checked(read_study(written(tmp_path, every=every))).damaged == ()


def test_runs_that_do_not_say_what_they_kept_may_have_kept_nothing(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN)
    for seed, setting, arm in PLAN.cells():
        leave_run(PLAN.folder(tmp_path, arm, setting, seed), arm, seed)
    assert checked(read_study(tmp_path)).damaged == ()


def test_no_trajectories_at_all(tmp_path: Path) -> None:
    shutil.rmtree(written(tmp_path) / "grpo_seed1/groups")
    assert damage(tmp_path) == "groups/ holds none"


@pytest.mark.parametrize(
    "content",
    [BUNDLE[:-1], BUNDLE[:40], BUNDLE[:-9] + b"\0" + BUNDLE[-8:], b"", b"{}\n", gzip.compress(b'{"problem": 1')],
    ids=["no end", "half", "another byte", "empty", "not compressed", "half a line"],
)
def test_a_broken_bundle(tmp_path: Path, content: bytes) -> None:
    bundle_path(written(tmp_path) / "grpo_seed1", 1).write_bytes(content)
    assert damage(tmp_path) == "groups/ is broken at step 1"


def test_steps_are_named_as_far_as_one_reads(tmp_path: Path) -> None:
    folder = written(tmp_path) / "grpo_seed1"
    bundle_path(folder, 0).unlink()
    for step in range(1, 6):
        bundle_path(folder, step).write_bytes(b"")
    assert damage(tmp_path) == "groups/ lacks step 0 and groups/ is broken at steps 1, 2, 3 and 2 more"


def test_every_setting_is_looked_at(tmp_path: Path) -> None:
    plan = replace(PLAN, arms=("gtpo",), seeds=(0,), across="rollout.group_size", settings=("2", "4"))
    bundle_path(written(tmp_path, plan) / "gtpo_group_size4_seed0", 1).write_bytes(b"")
    assert [one.setting for one in checked(read_study(tmp_path)).damaged] == ["4"]
