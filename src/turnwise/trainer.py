"""The training loop: Group Turn Policy Optimization and its neighbours (arXiv 2511.14846), component by component."""

import asyncio
import time
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import NamedTuple

from turnwise import checkpoint
from turnwise.evaluation.evaluate import Evaluator
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
from turnwise.rollout.diagnostics import diagnose, turn_returns
from turnwise.rollout.packing import pack, taking_part, with_trainer_logprobs
from turnwise.rollout.sampler import Rollout, RolloutSampler, RolloutSettings
from turnwise.rollout.summary import staleness, summarise
from turnwise.seeding import derive_seed
from turnwise.tracker.evaluations import overall_accuracy
from turnwise.types import TokenBatch


class Device(StrEnum):
    """Where the policy and a local engine live; `auto` takes CUDA where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """Of the forward and backward pass; the master weights stay float32. `auto`: bfloat16 on CUDA, float32 on a CPU."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The optimiser steps and what happens between them."""

    num_steps: int = 30
    """Steps, each of which samples trajectories and trains on them, by one optimiser step or several."""
    eval_every: int = 10
    """Steps between evaluations; there is always one before the first step and one after the last."""
    save_every: int = 10
    """Steps between checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, beside the one whose evaluation was best; 0 keeps all."""
    learning_rate: float = 2e-4
    """Learning rate of AdamW, constant after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly to its full value; 0: full from the first step."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    beta1: float = 0.9
    """Decay of AdamW's running mean of gradients."""
    beta2: float = 0.95
    """Decay of AdamW's running mean of squared gradients."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    num_epochs: int = 1
    """Passes over each step's trajectories; with 1 and one minibatch every update is on-policy."""
    num_minibatches: int = 1
    """Optimiser steps of one pass. Trajectories are dealt out in turn; each minibatch averages over its own."""
    max_staleness: int = 0
    """1: sample a step while the one before it is trained on, by weights one update older; 0: strictly in turn."""
    drop_void_turns: bool = False
    """Leave trajectories with a void turn, neither well-formed call nor answer, out of the loss (SimpleTIR)."""
    drop_equal_outcomes: bool = False
    """Leave groups that are all correct or all wrong out of the loss and its denominators (DAPO)."""
    token_budget: int = 2048
    """Computed tokens per micro-batch, a shared prompt counted once; changes memory and speed, never the gradient."""
    logit_chunk: int = 4096
    """Tokens whose logits over the vocabulary are held at once."""
    gradient_checkpointing: bool = False
    """Compute each layer twice instead of keeping its activations: less memory, about a third more time."""
    device: Device = Device.auto
    """Where the policy and a local engine live."""
    dtype: Precision = Precision.auto
    """Precision of forward and backward passes."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "keep_checkpoints", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: expected >= 0")
        for name in ("eval_every", "save_every", "num_epochs", "num_minibatches", "token_budget", "logit_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: expected >= 1")
        if self.max_staleness not in (0, 1):
            raise ValueError(f"trainer.max_staleness={self.max_staleness}: expected 0 or 1")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: expected a finite number > 0")
        if not 0 <= self.weight_decay < inf:
            raise ValueError(f"trainer.weight_decay={self.weight_decay}: expected a finite number >= 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: expected in [0, 1)")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup_steps, 1))


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
    rollouts: RolloutSampler
    probe: Probe
    reward: Reward
    evaluator: Evaluator
    advantage: AdvantageEstimator
    loss: PolicyLoss
    tracker: Tracker
    checkpoints: Path

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
        await self.engine.rest()
        self.learn(step, rollout, started)

    async def refresh(self, step: int) -> None:
        """Gives the engine the current weights and, when it is due, evaluates them."""
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
        scored = [self.reward(group) for group in groups]  # r[i, j], shaping inside
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
        self.tracker.log({**summarise(scored, advantages), **credit, **trained, **update.metrics, **timing}, step)

    def update(self, batch: TokenBatch, step: int) -> Update:
        """Trains the policy on the batch of a step.

        Raises:
            FloatingPointError: A loss or gradient is not finite. The batch then lies beside the checkpoints.
        """
        self.policy.set_learning_rate(self.settings.learning_rate_at(step))
        try:
            return self.policy.update(batch, self.loss)
        except FloatingPointError as error:
            path = self.checkpoints.parent / f"failed_batch_step_{step}.pt"
            checkpoint.save_batch(batch, path)
            raise FloatingPointError(f"step {step}: {error}; its batch is in {path}") from error

    async def evaluate(self, step: int) -> None:
        """Scores the weights that the engine holds, which have seen `step` steps, on every evaluation set."""
        metrics = (await self.evaluator(self.task.eval_sets(self.evaluator.settings.num_problems), step)).metrics
        self.tracker.log(metrics, step)
        keep = self.settings.keep_checkpoints
        checkpoint.note_accuracy(self.checkpoints, step, overall_accuracy(metrics), keep=keep)

    async def finish(self, next_step: int) -> None:
        """The checkpoint of the last step unless that step left one, and the evaluation after it."""
        if not self.saves_at(next_step):
            self.save(next_step)
        await self.engine.load_weights(self.policy.weights(), version=next_step)
        await self.evaluate(next_step)

    def save(self, next_step: int) -> None:
        """Writes a checkpoint from which step `next_step` follows."""
        checkpoint.save(
            self.checkpoints, next_step, policy=self.policy, task=self.task, keep=self.settings.keep_checkpoints
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
