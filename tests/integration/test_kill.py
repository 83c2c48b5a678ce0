"""Runs that are killed at any moment and started again end as if nothing had happened."""

import json
import random
import signal
import time
from itertools import cycle, islice
from pathlib import Path

import pytest

from integration_runs import IN_PROCESS, SMALL, assert_nothing_was_lost, newest
from killed_runs import Starter, longest

KINDS = ("sample", "update", "save", "evaluate")
"""What a run is killed in, in turn."""
HELD = "manifest"
"""Where it is held and killed besides: a checkpoint has its weights, and not yet the list of its files."""


def kill_again_and_again(
    start: Starter, tmp_path: Path, settings: tuple[str, ...], *, kills: int, save_every: int, seed: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = start(settings, whole)
    assert first.wait() == 0, first.output.read_text()
    taken = longest(first, KINDS)
    draw = random.Random(seed)
    first_step, half_written = 0, 0
    for kind in islice(cycle((HELD, *KINDS)), kills):
        number = draw.randint(1, 2)
        run = start(settings, killed, hold=(HELD, number) if kind == HELD else None)
        has_come = run.wait_for(kind, number)
        assert has_come, f"it ended before it came to be killed: {run.output.read_text()}"
        if kind == HELD:
            run.wait_until_held()
        else:
            time.sleep(draw.uniform(0, taken[kind]))
        assert run.kill() == -signal.SIGKILL
        is_left = any(killed.glob("checkpoints/.tmp-step_*"))
        assert is_left or kind != HELD, "who is held in a checkpoint leaves it half-written"
        half_written += is_left and kind in ("save", HELD)
        begun = run.begun()
        assert begun[0] == first_step, "it did not go on from the newest whole checkpoint"
        first_step = newest(killed)
        assert first_step > begun[-1] - save_every, "a step was lost that a checkpoint should have held"
    last = start(settings, killed)
    assert last.wait() == 0, last.output.read_text()
    begun = last.begun()
    assert begun[:1] == ([first_step] if first_step < newest(whole) else []), "or all steps had been saved"
    assert len(json.loads((killed / "config.json").read_text())["starts"]) == kills + 1
    assert_nothing_was_lost(whole, killed)
    print(f"{kills} kills, {half_written} of them left a half-written checkpoint")


def test_three_kills_lose_nothing(start: Starter, tmp_path: Path):
    settings = (*SMALL, *IN_PROCESS, "evaluation.num_problems=4", "trainer.num_steps=9", "trainer.eval_every=4")
    kill_again_and_again(start, tmp_path, settings, kills=3, save_every=1, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("save_every", [1, 2])
def test_twenty_kills_lose_nothing(start: Starter, tmp_path: Path, save_every: int):
    settings = (*SMALL, "trainer.num_steps=48", "trainer.eval_every=4", f"trainer.save_every={save_every}")
    kill_again_and_again(start, tmp_path, settings, kills=20, save_every=save_every, seed=save_every)
