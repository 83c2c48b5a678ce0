"""A study as multiruns: commands that Hydra reads as the plan means them, and what is refused beforehand."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from turnwise.config.build import build_components
from turnwise.config.errors import ConfigError
from turnwise.config.provenance import describe_run, write_config
from turnwise.config.sweep import LAUNCHERS, Cell, check_plan, launcher_overrides, multiruns
from turnwise.study.runs import Plan

PLAN = Plan(
    arms=("gtpo", "no_discount"),
    seeds=(0, 1, 2),
    baseline="gtpo",
    num_steps=3,
    across="rollout.max_turns",
    settings=("2", "4"),
    overrides=("rollout.num_problems=4",),
)
BASIC = ["hydra/launcher=basic"]


def jobs_of(command: list[str]) -> list[list[str]]:
    """What Hydra makes of a command: the overrides of each job, in the order of the jobs."""
    assert command[1:3] == ["src/main.py", "--multirun"]
    overrides = OverridesParser.create().parse_overrides(command[3:])
    (jobs,) = BasicSweeper.split_arguments([one for one in overrides if not one.is_hydra_override()], None)
    return jobs


def cells_of(plan: Plan, cells: Iterable[Cell], root: Path) -> list[list[Cell]]:
    """The cells that each command runs, in order."""
    found = []
    for command in multiruns(plan, cells, root, BASIC):
        values = [dict(override.split("=") for override in job) for job in jobs_of(command)]
        found.append([(int(one["seed"]), one[plan.across] if plan.across else "", one["ablation"]) for one in values])
    return found


def test_a_whole_study_is_one_multirun_in_the_order_of_the_plan(tmp_path: Path) -> None:
    root = tmp_path / "it's a folder, =1"
    assert cells_of(PLAN, PLAN.cells(), root) == [list(PLAN.cells())]
    (command,) = multiruns(PLAN, PLAN.cells(), root, BASIC)
    assert jobs_of(command)[0] == [
        "seed=0",
        "rollout.max_turns=2",
        "ablation=gtpo",
        "trainer.num_steps=3",
        "rollout.num_problems=4",
    ]
    overrides = OverridesParser.create().parse_overrides(command[3:])
    (sweep_dir,) = [one for one in overrides if one.key_or_group == "hydra.sweep.dir"]
    assert sweep_dir.value() == str(root)


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, across="", settings=("",))], ids=["settings", "no settings"])
def test_hydra_names_the_folders_that_the_plan_names(
    tmp_path: Path, composed_whole: Callable[..., DictConfig], plan: Plan
) -> None:
    (command,) = multiruns(plan, plan.cells(), tmp_path, BASIC)
    own = [word for word in command if word.startswith("hydra.sweep")]
    for job, (seed, setting, arm) in zip(jobs_of(command), plan.cells(), strict=True):
        sweep = composed_whole(*job, *own).hydra.sweep
        assert Path(sweep.dir) / sweep.subdir == plan.folder(tmp_path, arm, setting, seed)


def test_what_is_left_of_a_study_is_few_multiruns_and_nothing_else(tmp_path: Path) -> None:
    """Seed 0 is done but for one run, seeds 1 and 2 have not begun: two products."""
    left = [(0, "4", "no_discount"), *(cell for cell in PLAN.cells() if cell[0] > 0)]
    commands = cells_of(PLAN, left, tmp_path)
    assert commands == [left[:1], left[1:]]


@pytest.mark.parametrize("pattern", range(1, 2**8, 11))
def test_no_finished_run_is_started_again_whatever_is_left(tmp_path: Path, pattern: int) -> None:
    plan = replace(PLAN, seeds=(0, 1))  # 8 cells, each left or not
    left = [cell for place, cell in enumerate(plan.cells()) if pattern >> place & 1]
    started = [cell for command in cells_of(plan, left, tmp_path) for cell in command]
    assert sorted(started) == sorted(left)


def test_a_sound_plan_passes_and_leaves_nothing(tmp_path: Path) -> None:
    check_plan(PLAN, tmp_path, BASIC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("plan", "launcher", "message"),
    [
        (replace(PLAN, overrides=("rollout.num_problem=4",)), BASIC, r"ablation=gtpo rollout.max_turns=2: .*no such"),
        (replace(PLAN, settings=("2", "0")), BASIC, r"ablation=gtpo rollout\.max_turns=0: rollout\.max_turns=0"),
        (replace(PLAN, overrides=("advantage.discount=2",)), BASIC, r"advantage\.discount=2\.0: expected 0 to 1"),
        (PLAN, ["hydra/launcher=basic", "hydra.launcher.cpus=3"], "hydra.launcher.cpus"),
        (PLAN, ["hydra/launcher=none"], "hydra/launcher=none: no such option"),
        (
            replace(PLAN, across="advantage.discount", settings=("0.5",)),
            BASIC,
            r"ablation=no_discount advantage\.discount=0\.5: everything is set as with ablation=gtpo",
        ),
        (
            replace(PLAN, overrides=("task=jsonl", "task.path=no_such_file.jsonl")),
            BASIC,
            r"ablation=gtpo rollout\.max_turns=2: .*'no_such_file\.jsonl': no such file",
        ),
        (replace(PLAN, overrides=("health.not_finite=roll_back",)), BASIC, r"ablation=gtpo .*so no study counts it"),
    ],
    ids=["key", "setting", "range", "launcher's key", "launcher", "arms alike", "task", "roll back"],
)
def test_what_a_run_would_refuse_is_refused_beforehand(
    tmp_path: Path, plan: Plan, launcher: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_plan(plan, tmp_path, launcher)


def test_a_run_of_another_configuration_is_refused(tmp_path: Path, composed: Callable[..., DictConfig]) -> None:
    other = replace(PLAN, overrides=("rollout.num_problems=6",))
    seed, setting, arm = 1, "4", "no_discount"
    overrides = ["seed=1", "ablation=no_discount", "rollout.max_turns=4", "trainer.num_steps=3", *other.overrides]
    folder = other.folder(tmp_path, arm, setting, seed)
    folder.mkdir()
    components = build_components(composed(*overrides), label="other")
    write_config(folder, describe_run(components, choices={}, overrides=overrides))
    check_plan(other, tmp_path, BASIC)
    with pytest.raises(ConfigError, match=r"belongs to another run: rollout\.num_problems=6 there, 4 here"):
        check_plan(PLAN, tmp_path, BASIC)
    assert json.loads((folder / "config.json").read_text())["config"]["rollout"]["num_problems"] == 6


@pytest.mark.parametrize(("name", "jobs"), [*product(LAUNCHERS, (None, 3))])
def test_every_launcher_that_is_installed_composes_with_its_number_of_jobs(name: str, jobs: int | None, tmp_path: Path):
    launcher = LAUNCHERS[name]
    if launcher.plugin:
        pytest.importorskip(f"hydra_plugins.{launcher.plugin}", reason=f"extra {launcher.extra}")
    if jobs and not launcher.jobs:
        with pytest.raises(ConfigError, match=f"the launcher {name} takes no number of jobs; these do: joblib"):
            launcher_overrides(name, jobs, [])
        return
    check_plan(replace(PLAN, arms=("gtpo",), settings=("2",)), tmp_path, launcher_overrides(name, jobs, []))
