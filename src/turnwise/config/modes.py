"""What a start can do: train, evaluate, or make the tiny policy's warm start."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import cast

from torch import nn

from turnwise import checkpoint, warmstart
from turnwise.config.errors import ConfigError, building
from turnwise.config.evaluating import start_evaluator
from turnwise.config.parts import Components
from turnwise.config.wiring import (
    announce,
    check_prompts,
    check_similarity,
    check_task,
    choose_device,
    closing,
    compute_dtype,
    load_model,
    load_reference,
    policy_dtype,
    rollout_limits,
    run_to_end,
    sampling,
    say,
    start_engine,
    start_environments,
    start_policy,
    start_probe,
    start_tracker,
)
from turnwise.lookahead import train_ahead
from turnwise.model.attention import choose_attention
from turnwise.model.chat import ChatRenderer
from turnwise.model.tiny import SMALLEST_VOCABULARY, new_tiny_model, train_tokenizer
from turnwise.protocols import Demonstrated, EnvironmentPool
from turnwise.seeding import derive_seed
from turnwise.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Train:
    """Trains the policy, from the last checkpoint of the folder when there is one."""

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Runs to the end; leaves summary.json and report.html however it ends."""
        if not components.task.has_train:
            raise ConfigError(
                "mode=train: this task has nothing to train on: expected mode=evaluate, or a train task for the suite "
                "(+task@task.train=NAME)"
            )
        console = announce(components, run_dir)
        with building():
            task = components.task.start(components.seed)
            check_similarity(components)
            renderer = components.model.load_renderer()
            check_task(components, task, renderer)
            device = choose_device(components)
            model = load_model(components, device, policy_dtype(components, device))
            reference = load_reference(components, device)
            policy = start_policy(components, renderer, model, reference)
            kernel, reason = choose_attention(components.model.attention, device, compute_dtype(components, device))
            console.print(f"[dim]attention of the update: {kernel} ({reason})[/]", highlight=False)
            probe = start_probe(components, policy, renderer, model)
            environments = start_environments(components, run_dir, console)
            engine = start_engine(components, renderer, device)
            found = checkpoint.latest(run_dir / "checkpoints")
            first_step = 0 if found is None else checkpoint.restore(found, policy, task)
            num_steps = components.trainer.num_steps
            if first_step > num_steps:
                raise ConfigError(f"trainer.num_steps={num_steps}: {run_dir} already holds {first_step} steps")
            tracker = start_tracker(components, run_dir, console, first_step)

        async def run() -> None:
            async with sampling(components, renderer, engine, environments) as rollouts:
                trainer = Trainer(
                    seed=components.seed,
                    settings=components.trainer,
                    rollout_settings=components.rollout,
                    task=task,
                    policy=policy,
                    engine=engine,
                    rollouts=rollouts,
                    probe=probe,
                    reward=components.reward,
                    evaluator=start_evaluator(components, rollouts, engine, renderer, run_dir),
                    advantage=components.advantage,
                    loss=components.loss,
                    tracker=tracker,
                    checkpoints=run_dir / "checkpoints",
                )
                if components.trainer.max_staleness:
                    await train_ahead(trainer, first_step)
                else:
                    await trainer.train(first_step)

        with closing(run_dir, tracker, console):
            run_to_end(run())


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Scores a model on the evaluation sets, by the very path that evaluations during training take."""

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Leaves the figures in metrics.jsonl and summary.json, and every trajectory in evaluations/.

        Started again in the same folder it goes on where it was interrupted.
        """
        console = announce(components, run_dir)
        with building():
            task = components.task.start(components.seed)
            eval_sets = task.eval_sets(components.evaluation.num_problems)
            renderer = components.model.load_renderer()
            check_prompts(components, list(chain.from_iterable(eval_sets.values())), renderer)
            device = choose_device(components)
            environments = start_environments(components, run_dir, console)
            engine = start_engine(components, renderer, device)
            tracker = start_tracker(components, run_dir, console, first_step=0, num_steps=0)
            weights = components.model.identity()

        async def run() -> None:
            async with sampling(components, renderer, engine, environments) as rollouts:
                evaluator = start_evaluator(
                    components, rollouts, engine, renderer, run_dir, weights=weights, say=lambda text: say(console, text)
                )
                evaluation = await evaluator(eval_sets, 0)
            tracker.log(evaluation.metrics, 0)

        with closing(run_dir, tracker, console):
            renderer.save_pretrained(run_dir / "tokenizer")
            run_to_end(run())


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Makes the tiny policy from nothing: demonstrations, tokenizer, supervised learning."""

    out: str = ""
    """Folder for the weights; empty means `model` in the run's folder."""
    num_demonstrations: int = 12000
    """Transcripts played against the real environment."""
    num_steps: int = 2200
    """Optimiser steps."""
    batch_size: int = 32
    """Transcripts per step."""
    learning_rate: float = 3e-3
    """Peak of the schedule; the optimiser's other settings are the trainer's."""
    vocab_size: int = 768
    """Entries of the tokenizer."""

    def __post_init__(self) -> None:
        for name in ("num_demonstrations", "num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"mode.{name}={getattr(self, name)}: expected >= 1")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"mode.learning_rate={self.learning_rate}: expected in (0, 1)")
        if not SMALLEST_VOCABULARY < self.vocab_size <= 4096:
            raise ValueError(f"mode.vocab_size={self.vocab_size}: expected more than {SMALLEST_VOCABULARY}, up to 4096")
        if self.batch_size > self.num_demonstrations:
            raise ValueError(
                f"mode.batch_size={self.batch_size}: expected at most mode.num_demonstrations={self.num_demonstrations}"
            )

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Leaves a model that `model.path` takes."""
        console = announce(components, run_dir)
        if not isinstance(components.task, Demonstrated):
            raise ConfigError("mode=warmstart: this task has no demonstrations; expected task=arithmetic or task=chain")
        if components.model.lora_rank:
            raise ConfigError(
                f"mode=warmstart model.lora_rank={components.model.lora_rank}: the model begins with random "
                f"weights, and an adapter would leave them so; expected 0"
            )
        device = choose_device(components)
        out = Path(self.out) if self.out else run_dir / "model"
        with building():
            out.mkdir(parents=True, exist_ok=True)
        scripts = list(islice(components.task.demonstrations(components.seed), self.num_demonstrations))
        with building():
            environments = start_environments(components, run_dir, console)
        demonstrations = run_to_end(self._play(environments, scripts))
        tokenizer = train_tokenizer((text for one in demonstrations for text in one.texts), self.vocab_size)
        renderer = ChatRenderer(tokenizer, "tiny")
        model = cast(nn.Module, new_tiny_model(tokenizer, components.seed))
        policy = start_policy(components, renderer, model.to(device))
        trajectories = run_to_end(warmstart.as_trajectories(demonstrations, renderer, rollout_limits(components)))
        batches = warmstart.epochs(len(trajectories), self.batch_size, derive_seed(components.seed, "epochs"))
        tracker = start_tracker(components, run_dir, console, first_step=0, num_steps=self.num_steps)
        with closing(run_dir, tracker, console):
            for step, indices in enumerate(islice(batches, self.num_steps)):
                policy.set_learning_rate(self.learning_rate * warmstart.learning_rate_scale(step, self.num_steps))
                pairs = [(demonstrations[i].problem, trajectories[i]) for i in indices]
                update = policy.update(warmstart.imitation_batch(pairs), warmstart.imitation_loss).metrics
                # Demonstrations were not sampled by anything that the policy could disagree with.
                tracker.log({k: v for k, v in update.items() if not k.startswith("mismatch/")}, step)
            policy.save_pretrained(out)
        console.print(f"weights in {out}; score them with: mode=evaluate model.path={out}", highlight=False)

    async def _play(
        self, environments: EnvironmentPool, scripts: Sequence[warmstart.Script]
    ) -> list[warmstart.Demonstration]:
        try:
            return await warmstart.demonstrate_all(scripts, environments)
        finally:
            await environments.close()
