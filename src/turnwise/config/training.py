"""A run that trains, once its parts live: the loop, begun again wherever the run goes back to a checkpoint."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from turnwise.config.evaluating import start_evaluator
from turnwise.config.health import after_roll_backs, go_back, start_health, watching
from turnwise.config.parts import Components
from turnwise.config.stopping import Stop
from turnwise.config.wiring import sampling, say, start_tracker
from turnwise.health import Collapsed
from turnwise.lookahead import train_ahead
from turnwise.model.chat import ChatRenderer
from turnwise.protocols import EnvironmentPool, Policy, Probe, RolloutEngine, Task, Tracker
from turnwise.ranks import current
from turnwise.rollout.sampler import Sampler
from turnwise.tracker import evaluations, health
from turnwise.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Training:
    """The live parts of a run, and where it leaves its files."""

    components: Components
    run_dir: Path
    console: Console
    renderer: ChatRenderer
    task: Task
    policy: Policy
    probe: Probe
    engine: RolloutEngine
    environments: EnvironmentPool
    trackers: ExitStack = field(default_factory=ExitStack)
    """Each tracker that was started: one, and another one after each time that the run went back."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when nothing of the run is left to do."""

    def start_tracker(self, first_step: int) -> Tracker:
        """The run's tracker from `first_step` on; what there is of later steps is taken back, as they come again."""
        tracker = start_tracker(self.components, self.run_dir, self.console, first_step)
        self.trackers.callback(tracker.close)
        if current().is_first:  # now that nothing is refused any more
            evaluations.take_back(self.run_dir, first_step)
            health.take_back(self.run_dir, first_step)
        return tracker

    async def run(self, first_step: int, tracker: Tracker, stop: Stop) -> None:
        """Trains from `first_step` to the last one, by way of earlier ones where the run's health asks for it."""
        components, run_dir = self.components, self.run_dir
        async with (
            sampling(components, self.renderer, self.engine, self.environments, stop) as rollouts,
            watching(components, run_dir, stop, self.over),
        ):
            step = first_step
            while True:
                try:
                    return await self._train(step, tracker, rollouts)
                except (Collapsed, FloatingPointError) as trouble:
                    step = go_back(trouble, components, run_dir, self.policy, self.task, self.console)
                tracker.close()
                tracker = self.start_tracker(step)

    async def _train(self, first_step: int, tracker: Tracker, rollouts: Sampler) -> None:
        components, run_dir = self.components, self.run_dir
        current().wait()  # until the first rank has taken back what every rank is about to read
        seed, settings = after_roll_backs(components, run_dir, self.console)
        trainer = Trainer(
            seed=seed,
            settings=settings,
            rollout_settings=components.rollout,
            task=self.task,
            policy=self.policy,
            engine=self.engine,
            rollouts=rollouts,
            probe=self.probe,
            reward=components.reward,
            evaluator=start_evaluator(
                components,
                rollouts,
                self.environments,
                self.engine,
                self.renderer,
                run_dir,
                say=partial(say, self.console),
            ),
            advantage=components.advantage,
            loss=components.loss,
            tracker=tracker,
            checkpoints=run_dir / "checkpoints",
            health=start_health(components, run_dir, self.console),
            ranks=current(),
        )
        if components.health.rolls_back and first_step == 0:
            trainer.save(0)  # for trouble that comes before another checkpoint does
        if settings.max_staleness:
            await train_ahead(trainer, first_step)
        else:
            await trainer.train(first_step)
