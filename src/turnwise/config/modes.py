"""What a start can do: train, evaluate, or make the tiny policy's warm start. Each wires live parts and runs them."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import nn

from turnwise import checkpoint, warmstart
from turnwise.config.build import Components
from turnwise.config.errors import ConfigError, building
from turnwise.evaluation.evaluate import evaluate
from turnwise.model.chat import ChatRenderer
from turnwise.model.policy import TorchPolicy
from turnwise.model.tiny import new_tiny_model, train_tokenizer
from turnwise.protocols import RolloutEngine, Tracker
from turnwise.report.closing import closing_table
from turnwise.report.page import write_report
from turnwise.report.summary import Outcome, summarise_run, write_summary
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.sampler import RolloutSampler
from turnwise.seeding import derive_seed, seed_everything
from turnwise.task.arithmetic import Arithmetic
from turnwise.task.transcripts import Flaws
from turnwise.task.transcripts import demonstrate as script
from turnwise.tracker.composite import CompositeTracker
from turnwise.tracker.progress import ProgressTracker
from turnwise.trainer import Device, Precision, Trainer

T = TypeVar("T")

INTERRUPTED = 130
"""Exit code of a run that was told to stop: 128 + SIGINT."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Trains the policy, from the last checkpoint of the folder when there is one."""

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Runs to the end; leaves summary.json and report.html however it ends."""
        console = _announce(components, run_dir)
        with building():
            device = _device(components)
            renderer = components.model.load_renderer()
            policy = _policy(components, renderer, components.model.load_model(device, torch.float32))
            task = components.task.start(components.seed)
            found = checkpoint.latest(run_dir / "checkpoints")
            first_step = 0 if found is None else checkpoint.restore(found, policy, task)
            num_steps = components.trainer.num_steps
            if first_step > num_steps:
                raise ConfigError(f"trainer.num_steps={num_steps}: {run_dir} already holds {first_step} steps")
            tracker = _tracker(components, run_dir, console, first_step)

        async def run() -> None:
            async with _sampling(components, renderer, device) as (engine, rollouts):
                trainer = Trainer(
                    seed=components.seed,
                    settings=components.trainer,
                    rollout_settings=components.rollout,
                    evaluation_settings=components.evaluation,
                    task=task,
                    policy=policy,
                    engine=engine,
                    rollouts=rollouts,
                    reward=components.reward,
                    advantage=components.advantage,
                    loss=components.loss,
                    tracker=tracker,
                    checkpoints=run_dir / "checkpoints",
                )
                await trainer.train(first_step)

        with _closing(run_dir, tracker, console):
            _run(run())


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Scores a model on the eval split, by the very path that evaluations during training take."""

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Leaves the figures in metrics.jsonl and summary.json, and every trajectory in groups/."""
        console = _announce(components, run_dir)
        with building():
            device = _device(components)
            renderer = components.model.load_renderer()
            task = components.task.start(components.seed)
            problems = task.eval_problems(components.evaluation.num_problems)
            tracker = _tracker(components, run_dir, console, first_step=0)

        async def run() -> None:
            async with _sampling(components, renderer, device) as (_, rollouts):
                evaluation = await evaluate(rollouts, components.reward, problems, components.evaluation, task.name)
            scored = evaluation.scored_groups
            tracker.log(evaluation.metrics, 0)
            tracker.log_groups(scored, [[[0.0] * len(row) for row in one.turn_rewards_GK] for one in scored], 0)

        with _closing(run_dir, tracker, console):
            _run(run())


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Makes the tiny policy from nothing: demonstrations, tokenizer, supervised learning."""

    out: str = ""
    """Folder for the weights; empty means `model` in the run's folder."""
    num_demonstrations: int = 12000
    """Transcripts played against the real environment."""
    num_steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 32
    """Transcripts per step."""
    learning_rate: float = 3e-3
    """Peak of the schedule; the optimiser's other settings are the trainer's."""
    vocab_size: int = 768
    """Entries of the tokenizer."""
    flaws: Flaws = Flaws()  # noqa: RUF009
    """What goes wrong in the demonstrations, and how often."""

    def __post_init__(self) -> None:
        for name in ("num_demonstrations", "num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"mode.{name}={getattr(self, name)}: expected >= 1")
        if self.batch_size > self.num_demonstrations:
            raise ValueError(
                f"mode.batch_size={self.batch_size}: expected at most mode.num_demonstrations={self.num_demonstrations}"
            )

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Leaves a model that `model.path` takes, and its held-out accuracy in the summary."""
        console = _announce(components, run_dir)
        if not isinstance(components.task, Arithmetic):
            raise ConfigError("mode=warmstart needs task=arithmetic, the only task with demonstrations")
        device = _device(components)
        out = Path(self.out) if self.out else run_dir / "model"
        drafts = islice(components.task.warm_start_problems(components.seed), self.num_demonstrations)
        rng = Random(derive_seed(components.seed, "flaws"))
        scripts = [(problem, script(family, draft, self.flaws, rng).next_turn) for problem, family, draft in drafts]
        demonstrations = _run(self._play(components, scripts, console))
        tokenizer = train_tokenizer((text for one in demonstrations for text in one.texts), self.vocab_size)
        renderer = ChatRenderer(tokenizer, "tiny")
        model: Any = new_tiny_model(tokenizer, components.seed)
        policy = _policy(components, renderer, model.to(device))
        trajectories = _run(warmstart.as_trajectories(demonstrations, renderer, _limits(components)))
        batches = warmstart.epochs(len(trajectories), self.batch_size, derive_seed(components.seed, "epochs"))
        tracker = _tracker(components, run_dir, console, first_step=0, num_steps=self.num_steps)
        with _closing(run_dir, tracker, console):
            for step, indices in enumerate(islice(batches, self.num_steps)):
                policy.set_learning_rate(self.learning_rate * warmstart.learning_rate_scale(step, self.num_steps))
                pairs = [(demonstrations[i].problem, trajectories[i]) for i in indices]
                tracker.log(policy.update(warmstart.imitation_batch(pairs), warmstart.imitation_loss), step)
            policy.save_pretrained(out)
        console.print(f"weights in {out}; score them with: mode=evaluate model.path={out}", highlight=False)

    async def _play(
        self, components: Components, scripts: Sequence[warmstart.Script], console: Console
    ) -> list[warmstart.Demonstration]:
        environments = components.env.start()
        try:
            return await warmstart.demonstrate_all(scripts, environments)
        finally:
            await environments.close()


def _announce(components: Components, run_dir: Path) -> Console:
    console = Console()
    console.print(f"{components.label}, seed {components.seed}, in {run_dir}", highlight=False, soft_wrap=True)
    seed_everything(components.seed)
    return console


def _device(components: Components) -> torch.device:
    wanted = components.trainer.device
    if wanted is Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(str(wanted))


def _policy(components: Components, renderer: ChatRenderer, model: nn.Module) -> TorchPolicy:
    settings = components.trainer
    return TorchPolicy(
        model,
        renderer,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(settings.beta1, settings.beta2),
        max_grad_norm=settings.max_grad_norm,
        token_budget=settings.token_budget,
        logit_chunk=settings.logit_chunk,
        dtype=_compute_dtype(components),
    )


def _compute_dtype(components: Components) -> torch.dtype:
    return torch.bfloat16 if components.trainer.dtype is Precision.bfloat16 else torch.float32


def _limits(components: Components) -> RolloutLimits:
    return RolloutLimits(max_turns=components.rollout.max_turns, max_tokens=components.rollout.max_tokens)


def _tracker(
    components: Components, run_dir: Path, console: Console, first_step: int, num_steps: int | None = None
) -> Tracker:
    recorded = components.tracker.start(
        run_dir, first_step=first_step, label=components.label, config=components.config
    )
    shown = ProgressTracker(components.trainer.num_steps if num_steps is None else num_steps, console, first_step)
    return CompositeTracker([recorded, shown])


@asynccontextmanager
async def _sampling(
    components: Components, renderer: ChatRenderer, device: torch.device
) -> AsyncIterator[tuple[RolloutEngine, RolloutSampler]]:
    """An engine with a copy of the model and an environment with its processes, both ended on the way out."""
    dtype = _compute_dtype(components)
    engine = components.engine.start(
        components.model.load_model(device, dtype), renderer.stop_token_ids, renderer.pad_token_id
    )
    environments = components.env.start()
    try:
        sampler = RolloutSampler(
            engine=engine, environments=environments, renderer=renderer, limits=_limits(components)
        )
        yield engine, sampler
    finally:
        await environments.close()
        await engine.close()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`; SIGINT and SIGTERM cancel it, and it may finish what it must before KeyboardInterrupt is raised."""

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextmanager
def _closing(run_dir: Path, tracker: Tracker, console: Console) -> Iterator[None]:
    """Whatever ends the run: closes the tracker, leaves summary.json and report.html, prints the closing table."""
    started = perf_counter()
    outcome, why = Outcome.failed, ""
    try:
        yield
        outcome = Outcome.finished
    except KeyboardInterrupt:
        outcome, why = Outcome.stopped, "interrupted; the same command with this hydra.run.dir goes on from here"
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise
    finally:
        tracker.close()
        summary = summarise_run(run_dir, outcome=outcome, why=why, wall_s=perf_counter() - started)
        write_summary(run_dir, summary)
        write_report(run_dir)
        console.print(closing_table(run_dir, summary))
