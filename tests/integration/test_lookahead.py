"""Runs that sample a step while the one before it is trained on."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integration_runs import IN_PROCESS, Run, assert_same_run, lines
from turnwise.config.errors import ConfigError
from turnwise.lookahead import train_ahead
from turnwise.trainer import Trainer

IN_TURN = (*IN_PROCESS, "loss.correction=truncate", "trainer.num_steps=5", "trainer.eval_every=3")
AHEAD = (*IN_TURN, "trainer.max_staleness=1")


def staleness(run_dir: Path) -> list[float]:
    return [line["rollout/staleness"] for line in lines(run_dir) if "rollout/staleness" in line]


def test_steps_are_sampled_by_weights_one_update_old_but_after_an_evaluation_or_a_checkpoint(run: Run):
    # Evaluations stand before steps 0 and 3, checkpoints before 0 and 4.
    run_dir = run(*AHEAD, "trainer.save_every=4")
    assert staleness(run_dir) == [0, 1, 1, 0, 0]
    mismatch = [line["mismatch/log_ratio_max"] for line in lines(run_dir) if "mismatch/log_ratio_max" in line]
    assert max(mismatch[n] for n in (0, 3, 4)) < 1e-3 < min(mismatch[n] for n in (1, 2))
    assert [line["step"] for line in lines(run_dir) if "eval/chain/accuracy" in line] == [0, 3, 5]


def test_with_a_checkpoint_before_every_step_nothing_is_ahead(run: Run):
    plain = run(*IN_TURN, folder="plain")
    assert_same_run(run(*AHEAD, folder="ahead"), plain)


def test_the_same_command_twice_gives_the_same_run(run: Run):
    one, two = (run(*AHEAD, "trainer.save_every=100", folder=folder) for folder in ("one", "two"))
    assert staleness(one) == [0, 1, 1, 0, 1]
    assert_same_run(one, two)


def test_a_run_that_resumes_from_a_regular_checkpoint_is_exact(run: Run):
    whole = run(*AHEAD, "trainer.num_steps=6", "trainer.save_every=3", folder="whole")
    run(*AHEAD, "trainer.num_steps=3", "trainer.save_every=3", folder="parts")
    assert_same_run(run(*AHEAD, "trainer.num_steps=6", "trainer.save_every=3", folder="parts"), whole)


def test_a_cancelled_run_finishes_its_update_and_saves_it(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    learn, sample = Trainer.learn, Trainer.sample
    sampled_ahead = threading.Event()
    finished = []

    def learn_slowly(trainer: Trainer, step: int, *rest: Any) -> None:
        if step == 1:
            assert sampled_ahead.wait(60), "step 2 was not sampled while step 1 was trained on"
            for _ in range(3):  # an impatient user
                loop.call_soon_threadsafe(task.cancel)
                time.sleep(0.05)
            assert not (trainer.checkpoints / "step_1").exists(), "it saved while the update was under way"
        learn(trainer, step, *rest)
        finished.append(step)

    async def tell(trainer: Trainer, step: int) -> Any:
        rollout = await sample(trainer, step)
        if step == 2:
            sampled_ahead.set()
        return rollout

    async def remember(trainer: Trainer, first_step: int = 0) -> None:
        nonlocal loop, task
        loop = asyncio.get_running_loop()
        running = asyncio.current_task()
        assert running is not None
        task = running
        await train_ahead(trainer, first_step)

    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[Any]
    monkeypatch.setattr(Trainer, "learn", learn_slowly)
    monkeypatch.setattr(Trainer, "sample", tell)
    monkeypatch.setattr("turnwise.config.training.train_ahead", remember)
    with pytest.raises(SystemExit):
        run(*AHEAD, "trainer.save_every=100")
    assert finished == [0, 1]
    run_dir = tmp_path / "run"
    assert (run_dir / "checkpoints" / "last").resolve().name == "step_2"
    assert [line["step"] for line in lines(run_dir) if "loss/value" in line] == [0, 1]
    monkeypatch.undo()
    run(*AHEAD, "trainer.save_every=100")
    assert staleness(run_dir) == [0, 1, 0, 0, 1]  # step 2 is sampled anew, by the weights of the checkpoint


def test_an_update_that_fails_ends_the_run_and_what_is_sampled_ahead(run: Run, monkeypatch: pytest.MonkeyPatch):
    learn = Trainer.learn

    def fail(trainer: Trainer, step: int, *rest: Any) -> None:
        if step == 1:
            raise FloatingPointError("made to fail")
        learn(trainer, step, *rest)

    monkeypatch.setattr(Trainer, "learn", fail)
    with pytest.raises(FloatingPointError, match="made to fail"):
        run(*AHEAD, "trainer.save_every=100")


def test_older_samples_without_a_correction_are_refused(run: Run):
    with pytest.raises(ConfigError, match=r"trainer\.max_staleness=1 .* loss\.correction=none"):
        run("trainer.max_staleness=1")


def test_the_settings_know_no_other_staleness(components: Any):
    with pytest.raises(ValueError, match=r"trainer\.max_staleness=2: expected 0 or 1"):
        replace(components.trainer, max_staleness=2)
