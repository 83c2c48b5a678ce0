"""The loop with a step of lookahead: while one step is trained on, the engine samples the next."""

import asyncio

from turnwise.rollout.sampler import Rollout
from turnwise.trainer import Trainer
from turnwise.watchdog import Work, under_way


async def train_ahead(trainer: Trainer, first_step: int = 0) -> None:
    """Runs the steps of `trainer` as its own `train` does, but for what overlaps.

    A step that is sampled ahead comes from weights one update older than those that it trains; `loss.correction` makes
    up for the difference and `mismatch/*` shows it. Nothing is sampled ahead across an evaluation or a checkpoint, both
    of which need the weights as they stand: the step after one is sampled by the newest weights. A run that resumes
    from such a checkpoint is thereby exact. When the run is cancelled the update under way is finished and saved, and
    what was sampled ahead is forgotten: resumed, that step is sampled again, by the newer weights.
    """
    next_step, cursor = first_step, trainer.task.state_dict()
    ahead: asyncio.Task[Rollout] | None = None
    started = trainer.now()
    try:
        for step in range(first_step, trainer.settings.num_steps):
            if ahead is None:
                await trainer.refresh(step)
                started = trainer.now()
                ahead = asyncio.create_task(trainer.sample(step))
            rollout = await ahead
            ahead = None
            after_sampling = trainer.task.state_dict()
            if _can_be_sampled_ahead(trainer, step + 1):
                with under_way(Work.engine):
                    await trainer.engine.load_weights(trainer.policy.weights(), version=step)
                ahead = asyncio.create_task(trainer.sample(step + 1))
            learning = asyncio.create_task(asyncio.to_thread(trainer.learn, step, rollout, started))
            try:
                await _to_its_end(learning)
            finally:
                if learning.exception() is None:
                    next_step, cursor = step + 1, after_sampling
            started = trainer.now()
            if trainer.saves_at(next_step):
                trainer.save(next_step)
        await trainer.finish(next_step)
    except asyncio.CancelledError:
        trainer.task.load_state_dict(cursor)
        trainer.save(next_step)
        raise
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


async def _to_its_end(learning: asyncio.Task[None]) -> None:
    """Waits for an update however often it is cancelled: a thread cannot be stopped while it moves weights."""
    is_cancelled = False
    while not learning.done():
        try:
            await asyncio.shield(learning)
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError
    learning.result()


def _can_be_sampled_ahead(trainer: Trainer, step: int) -> bool:
    return step < trainer.settings.num_steps and not trainer.evaluates_at(step) and not trainer.saves_at(step)
