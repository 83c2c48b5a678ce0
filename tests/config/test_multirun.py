"""What is started again when processes die: nothing twice that has ended, and nothing that is somebody else's."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from made_runs import NUM_STEPS, leave_run
from turnwise.config import multirun
from turnwise.config.errors import ConfigError
from turnwise.config.multirun import _start_all, train_missing
from turnwise.config.sweep import Cell
from turnwise.study.runs import Plan, write_plan

CELLS: list[Cell] = [(seed, "", arm) for seed in (0, 1) for arm in ("gtpo", "grpo", "no_discount")]
KILLER = CELLS[1]


class Study:
    """Two workers, which die together when `KILLER` has begun in one of them."""

    def __init__(self) -> None:
        self.begun: set[Cell] = set()
        self.ended: set[Cell] = set()
        self.starts: list[list[Cell]] = []

    def has_begun(self, cell: Cell) -> bool:
        return cell in self.begun

    def has_ended(self, cell: Cell) -> bool:
        return cell in self.ended

    def start(self, cells: Sequence[Cell]) -> bool:
        self.starts.append(list(cells))
        for place in range(0, len(cells), 2):
            pair = cells[place : place + 2]
            self.begun.update(pair)
            if KILLER in pair:
                return True
            self.ended.update(pair)
        return True


def start_all(study: Study, *, may_start_again: bool = True) -> bool:
    return _start_all(CELLS, study.start, study, StringIO(), may_start_again=may_start_again)  # pyright: ignore[reportArgumentType]


def test_one_that_dies_does_not_take_the_others_with_it() -> None:
    study = Study()
    assert start_all(study)
    # Both of the first pair are cut off; the rest is started again, then each of the two alone.
    assert study.starts == [CELLS, CELLS[2:], [CELLS[0]], [KILLER]]
    assert set(CELLS) - study.ended == {KILLER}


def test_jobs_that_outlive_their_start_are_not_submitted_twice() -> None:
    study = Study()
    assert start_all(study, may_start_again=False)
    assert study.starts == [CELLS]


def test_ctrl_c_ends_it() -> None:
    study = Study()
    study.start = lambda cells: False
    assert not start_all(study)


def test_a_command_that_hydra_refuses(tmp_path: Path) -> None:
    study = Study()
    study.start = lambda cells: True  # and nothing begins
    with (tmp_path / "study.log").open("a+") as log:
        log.write("error: hydra.launcher.n_job: no such key\n\n")
        log.flush()
        with pytest.raises(ConfigError, match=r"study\.log ends with: error: hydra\.launcher\.n_job: no such key"):
            _start_all(CELLS, study.start, study, log, may_start_again=True)  # pyright: ignore[reportArgumentType]


def test_a_run_that_ended_without_its_figures_is_named_and_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(arms=("gtpo", "grpo"), seeds=(0, 1), baseline="gtpo", num_steps=NUM_STEPS)
    write_plan(tmp_path, plan)
    for arm in plan.arms:
        leave_run(plan.folder(tmp_path, arm, "", 0), arm, 0)
    (tmp_path / "grpo_seed0/metrics.jsonl").unlink()
    started: list[Cell] = []
    monkeypatch.setattr(multirun, "_start_all", lambda missing, *_, **__: started.extend(missing) or True)
    output = StringIO()
    assert train_missing(plan, tmp_path, "basic", [], Console(file=output))
    assert started == [(1, "", "gtpo"), (1, "", "grpo")]
    first, second = output.getvalue().splitlines()
    assert first == (
        "grpo seed 0 has ended, and is run again only when its folder is gone: "
        "metrics.jsonl holds rollout/accuracy of 0 steps, expected 2"
    )
    assert second == f"2 of 4 runs to go, in {tmp_path}"
