"""The training loop: Group Turn Policy Optimization and its neighbours (arXiv 2511.14846), component by component."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from turnwise import checkpoint
from turnwise.evaluation.evaluate import Evaluator
from turnwise.health import Health
from turnwise.protocols import (
    AdvantageEstimator,
    Policy,
    PolicyLoss,
    Probe,
    Reward,
    RolloutEngine,
    Task,
    Tracker,
    Update,
)
from turnwise.ranks import ALONE, Ranks
from turnwise.rollout.diagnostics import diagnose, turn_returns
from turnwise.rollout.packing import pack, taking_part, with_trainer_logprobs
from turnwise.rollout.sampler import Rollout, RolloutSettings, Sampler
from turnwise.rollout.scoring import score
from turnwise.rollout.summary import staleness, summarise
from turnwise.seeding import derive_seed
from turnwise.tracker.evaluations import overall_accuracy
from turnwise.trainer_settings import TrainerSettings
from turnwise.types import TokenBatch
from turnwise.watchdog import Work, under_way


class Moment(NamedTuple):
    """Seconds of the clock on the wall, and seconds that the engine has been busy."""

    wall_s: float
    engine_s: float


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The parts of a run and the order in which the algorithm uses them."""

    seed: int
    settings: TrainerSettings
    rollout_settings: RolloutSettings
    task: Task
    policy: Policy
    engine: RolloutEngine
    rollouts: Sampler
    probe: Probe
    reward: Reward
    evaluator: Evaluator
    advantage: AdvantageEstimator
    loss: PolicyLoss
    tracker: Tracker
    checkpoints: Path
    health: Health
    ranks: Ranks = ALONE
    """The processes that train together; every one of them runs this loop, with the same groups and figures in it."""

    async def train(self, first_step: int = 0) -> None:
        """Runs steps `first_step` to `num_steps`; when it is cancelled, saves what the finished steps gave.

        A step that was under way is forgotten: the checkpoint holds the state at its start, so that a resumed run
        samples it again exactly.
        """
        next_step, cursor = first_step, self.task.state_dict()
        try:
            for step in range(first_step, self.settings.num_steps):
                await self.step(step)
                next_step, cursor = step + 1, self.task.state_dict()
                if self.saves_at(next_step):
                    self.save(next_step)
            await self.finish(next_step)
        except asyncio.CancelledError:
            self.task.load_state_dict(cursor)
            self.save(next_step)
            raise

    async def step(self, step: int) -> None:
        """One iteration of the algorithm."""
        await self.refresh(step)
        started = self.now()
        rollout = await self.sample(step)  # tau_1..G ~ pi_old, tools in the loop
        with under_way(Work.engine):
            await self.engine.rest()
        self.learn(step, rollout, started)

    async def refresh(self, step: int) -> None:
        """Gives the engine the current weights and, when it is due, evaluates them."""
        with under_way(Work.engine):
            await self.engine.load_weights(self.policy.weights(), version=step)
        if self.evaluates_at(step):
            await self.evaluate(step)

    async def sample(self, step: int) -> Rollout:
        """Groups of trajectories of the task's next problems, by the weights that the engine holds."""
        settings = self.rollout_settings
        return await self.rollouts.sample(
            self.task.next_batch(settings.num_problems),  # x_0 ~ D
            group_size=settings.group_size,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=derive_seed(self.seed, "rollout", step),
        )

    def learn(self, step: int, rollout: Rollout, started: Moment) -> None:
        """Scores and credits what was sampled, trains the policy on it, and logs the step that began at `started`."""
        groups = self.probe(rollout.groups)  # log p(gold answer) when each turn began, where the reward asks for it
        scored = score(groups, self.reward, self.ranks)  # r[i, j], shaping inside
        returns = turn_returns(scored, self.advantage.discount)  # R[i, j]
        advantages = self.advantage(scored)  # A[i, j]
        takes_part = taking_part(
            scored,
            drop_void_turns=self.settings.drop_void_turns,
            drop_equal_outcomes=self.settings.drop_equal_outcomes,
        )
        batch = pack(  # A[i, j] -> every sampled token of turn j
            scored,
            advantages,
            temperature=self.rollout_settings.temperature,
            top_k=self.rollout_settings.top_k,
            top_p=self.rollout_settings.top_p,
            takes_part=takes_part,
        )
        sampled = self.now()
        try:
            update = self.update(batch, step)
            scored = with_trainer_logprobs(scored, takes_part, update.logprobs_N)
        finally:  # the trajectories of an update that fails are the ones to read
            sampled_meanwhile_s = self.now().engine_s - sampled.engine_s
            self.tracker.log_groups(scored, returns, advantages, step)

        trained = {
            "loss/num_tokens": batch.num_loss_tokens,
            "loss/num_sequences": batch.num_loss_sequences,
            "update/learning_rate": self.settings.learning_rate_at(step),
            "rollout/staleness": staleness(groups, step),
        }
        if (isolation := self.rollouts.isolation) is not None:
            trained["tool/isolation"] = isolation.value
        ended = self.now()
        step_s = ended.wall_s - started.wall_s
        busy_s = ended.engine_s - started.engine_s - sampled_meanwhile_s + update.metrics["time/update_s"]
        timing = {
            "time/step_s": step_s,
            "time/idle_share": max(0.0, 1 - busy_s / step_s),  # neither the engine nor the update at work
            "time/rollout_s": rollout.wall_s,
            "time/tool_s": rollout.tool_s,
            "throughput/sampled_tokens_per_s": rollout.num_sampled_tokens / rollout.wall_s,
        }
        credit = diagnose(scored, returns, advantages, self.advantage)
        figures = {**summarise(scored, advantages), **credit, **trained, **update.metrics, **timing}
        self.tracker.log(figures, step)
        self.health(self.ranks.gather(figures)[0], step)  # may end this loop, on all ranks: for good, or to go back

    def update(self, batch: TokenBatch, step: int) -> Update:
        """Trains the policy on the batch of a step.

        Raises:
            FloatingPointError: A loss or gradient is not finite. The batch then lies beside the checkpoints.
        """
        self.policy.set_learning_rate(self.settings.learning_rate_at(step))
        try:
            with under_way(Work.update):
                return self.policy.update(batch, self.loss)
        except FloatingPointError as error:
            path = self.checkpoints.parent / f"failed_batch_step_{step}.pt"
            if self.ranks.is_first:
                checkpoint.save_batch(batch, path)
            raise FloatingPointError(f"step {step}: {error}; its batch is in {path}") from error

    async def evaluate(self, step: int) -> None:
        """Scores the weights that the engine holds, which have seen `step` steps, on every evaluation set."""
        metrics = (await self.evaluator(self.task.eval_sets(self.evaluator.settings.num_problems), step)).metrics
        self.tracker.log(metrics, step)
        if self.ranks.is_first:
            keep, every = self.settings.keep_checkpoints, self.settings.save_every
            checkpoint.note_accuracy(self.checkpoints, step, overall_accuracy(metrics), keep=keep, every=every)

    async def finish(self, next_step: int) -> None:
        """The checkpoint of the last step unless that step left one, and the evaluation after it."""
        if not self.saves_at(next_step):
            self.save(next_step)
        with under_way(Work.engine):
            await self.engine.load_weights(self.policy.weights(), version=next_step)
        await self.evaluate(next_step)

    def save(self, next_step: int) -> None:
        """Writes a checkpoint from which step `next_step` follows."""
        with under_way(Work.checkpoint):
            checkpoint.save(
                self.checkpoints,
                next_step,
                policy=self.policy,
                task=self.task,
                keep=self.settings.keep_checkpoints,
                every=self.settings.save_every,
                ranks=self.ranks,
            )

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation stands before `step`."""
        return step % self.settings.eval_every == 0

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint stands before `step`."""
        return step % self.settings.save_every == 0

    def now(self) -> Moment:
        """The clocks of this moment."""
        return Moment(time.perf_counter(), self.engine.busy_s)
