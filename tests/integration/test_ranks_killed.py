"""Runs of two processes that are killed, all at once or one of them alone, and go on as if nothing had happened."""

import os
import random
import signal
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import pytest

from integration_runs import SHARDED, assert_nothing_was_lost, newest
from killed_runs import Hold, KillableRun, Starter, longest

SETTINGS = (*SHARDED, "trainer.num_steps=3")
KINDS = ("save", "sample", "parts", "update", "weights", "evaluate", "publish")
"""What the first rank has just begun when the run is killed, in turn."""
BOTH = (0, 1)
VICTIMS = (BOTH, (0,), (1,))
"""Who is killed, in turn: a machine goes down, or one process of it."""
HELD = "manifest"
"""Where the first is held and both are killed besides: a checkpoint has its weights, and no list of its files yet."""
LOST = tuple(
    f"error: another process of this run has ended; {what}"
    for what in (
        "the same command with this hydra.run.dir goes on",
        "there is no checkpoint yet: the same command with this hydra.run.dir begins anew",
    )
)


def kill(ranks: Sequence[KillableRun], victims: Sequence[int]) -> None:
    """Kills some, after which all end."""
    for victim in victims:
        ranks[victim].send(signal.SIGKILL)
    assert_ended(ranks, victims)


def assert_ended(ranks: Sequence[KillableRun], victims: Sequence[int]) -> None:
    """Who was not killed ends too, and says why in one line."""
    codes = [one.wait() for one in ranks]
    printed = [one.output.read_text() for one in ranks]
    assert codes == [-signal.SIGKILL if rank in victims else 1 for rank in range(len(ranks))], printed
    for rank, text in enumerate(printed):
        assert "Traceback" not in text
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert [line.startswith(LOST) for line in errors] == [True] * (rank not in victims), text


def begun(ranks: Sequence[KillableRun]) -> list[int]:
    """The steps that the first rank has begun."""
    return ranks[0].begun()


@pytest.fixture(scope="module")
def whole(start: Starter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("ranks") / "whole"
    ranks = start.ranks(2, SETTINGS, run_dir)
    assert [one.wait() for one in ranks] == [0, 0], ranks[0].output.read_text()
    return run_dir


def test_three_kills_of_two_ranks_lose_nothing(start: Starter, tmp_path: Path, whole: Path):
    killed = tmp_path / "killed"

    def started(rank: int, hold: Hold) -> list[KillableRun]:
        ranks = start.ranks(2, SETTINGS, killed, hold={rank: hold})
        ranks[rank].wait_until_held()
        return ranks

    ranks = started(1, ("parts", 1))
    kill(ranks, [1])  # which was about to write its part of the optimiser's state
    assert (begun(ranks), newest(killed)) == ([0], 0)
    assert list(killed.rglob(".tmp-*")) == [], "the first takes back what was not finished"

    ranks = started(0, ("point", 2))
    os.kill(ranks[1].pid, signal.SIGSTOP)
    assert ranks[0].kill() == -signal.SIGKILL  # it has renamed the second checkpoint, and `last` names the first
    refused = start.ranks(2, SETTINGS, killed)
    assert [one.wait() for one in refused] == [2, 2], "a rank that may still write keeps the folder"
    assert "another process works in this folder" in refused[0].output.read_text()
    ranks[1].send(signal.SIGCONT)
    assert_ended(ranks, [0])
    assert (begun(ranks), newest(killed)) == ([0, 1], 1)

    ranks = started(0, ("update", 1))
    kill(ranks, [0, 1])
    assert (begun(ranks), newest(killed)) == ([1], 1)

    last = start.ranks(2, SETTINGS, killed)
    assert [one.wait() for one in last] == [0, 0], last[0].output.read_text()
    assert begun(last) == [1, 2], "the steps that no checkpoint holds, and no other"
    assert_nothing_was_lost(whole, killed)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_kills_of_two_ranks_lose_nothing(start: Starter, tmp_path: Path):
    settings = (*SHARDED, "trainer.num_steps=40")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ranks = start.ranks(2, settings, whole)
    assert [one.wait(1500) for one in ranks] == [0, 0], ranks[0].output.read_text()
    taken = longest(ranks[0], KINDS)
    draw = random.Random(0)
    first_step, half_written = 0, 0
    for kind, victims in islice(zip(cycle((HELD, *KINDS)), cycle(VICTIMS), strict=False), 20):
        number = draw.randint(1, 2)
        ranks = start.ranks(2, settings, killed, hold={0: (HELD, number)} if kind == HELD else None)
        has_come = ranks[0].wait_for(kind, number)
        assert has_come, f"it ended before it came to be killed: {ranks[0].output.read_text()}"
        if kind == HELD:
            ranks[0].wait_until_held()
            kill(ranks, BOTH)
        else:
            time.sleep(draw.uniform(0, taken[kind]))
            kill(ranks, victims)
        is_left = any(killed.glob("checkpoints/.tmp-step_*"))
        assert is_left or kind != HELD, "nobody is left who takes a half-written checkpoint back"
        half_written += is_left
        assert begun(ranks)[0] == first_step, "it did not go on from the newest whole checkpoint"
        first_step = newest(killed)
        assert first_step > begun(ranks)[-1] - 1, "a step was lost that a checkpoint should have held"
    last = start.ranks(2, settings, killed)
    assert [one.wait(1500) for one in last] == [0, 0], last[0].output.read_text()
    assert begun(last)[:1] == [first_step]
    assert_nothing_was_lost(whole, killed)
    print(f"20 kills, {half_written} of them left a half-written checkpoint")
