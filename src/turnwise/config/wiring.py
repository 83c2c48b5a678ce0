"""The live parts that modes have in common: made from the components, and ended whatever happens."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar, cast

import torch
from rich.console import Console
from torch import nn

from turnwise.config.allocator import keep_freed_memory
from turnwise.config.errors import ConfigError
from turnwise.config.parts import Components
from turnwise.config.provenance import record_isolation
from turnwise.config.stopping import INTERRUPTED, Preempted, cancel_when_told, on_first_signal
from turnwise.disk import DISK_ERRORS
from turnwise.model.chat import ChatRenderer
from turnwise.model.policy import TorchPolicy
from turnwise.protocols import EnvironmentPool, Policy, Probe, Reward, RolloutEngine, Tracker
from turnwise.report.closing import closing_table
from turnwise.report.evaluations import write_table
from turnwise.report.page import write_report
from turnwise.report.summary import Outcome, read_summary, summarise_run, write_summary
from turnwise.reward.outcome import OutcomeReward
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.gold import GoldProbe
from turnwise.rollout.sampler import RolloutSampler
from turnwise.seeding import seed_everything
from turnwise.tracker.composite import CompositeTracker
from turnwise.tracker.progress import ProgressTracker
from turnwise.trainer import Device, Precision
from turnwise.types import Isolation

T = TypeVar("T")


def announce(components: Components, run_dir: Path) -> Console:
    """Says what starts where, and seeds every global generator."""
    console = Console()
    console.print(f"{components.label}, seed {components.seed}, in {run_dir}", highlight=False, soft_wrap=True)
    seed_everything(components.seed)
    return console


def say(console: Console, text: str) -> None:
    """Prints a line as it is, whatever brackets or numbers it holds."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def choose_device(components: Components) -> torch.device:
    """The device of `trainer.device`; on a CPU also sets the number of threads and how memory is kept."""
    wanted = components.trainer.device
    if wanted is Device.auto:
        wanted = Device.cuda if torch.cuda.is_available() else Device.cpu
    if wanted is Device.cpu:
        keep_freed_memory()
        if components.model.num_threads:
            torch.set_num_threads(components.model.num_threads)
    return torch.device(str(wanted))


def start_policy(
    components: Components, renderer: ChatRenderer, model: nn.Module, reference: nn.Module | None = None
) -> TorchPolicy:
    """The policy with its optimiser, and the frozen model that its loss compares it with."""
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
        dtype=compute_dtype(components, next(model.parameters()).device),
        num_epochs=settings.num_epochs,
        num_minibatches=settings.num_minibatches,
        has_entropy_gradient=components.loss.entropy_weight > 0,
        reference=reference,
        gradient_checkpointing=settings.gradient_checkpointing,
        lora_rank=components.model.lora_rank,
        lora_alpha=components.model.lora_alpha,
    )


def policy_dtype(components: Components, device: torch.device) -> torch.dtype:
    """What the trained model is loaded in: float32, or that of the passes where only an adapter is trained."""
    return compute_dtype(components, device) if components.model.lora_rank else torch.float32


def load_reference(components: Components, device: torch.device) -> nn.Module | None:
    """The starting weights, in a resumed run too, where the loss has a KL term; else None, and no memory is spent."""
    if not components.loss.kl_weight:
        return None
    return load_model(components, device, policy_dtype(components, device))  # in another it would not be the policy


def start_probe(components: Components, policy: Policy, renderer: ChatRenderer, model: nn.Module) -> Probe:
    """Asks `policy` for the gold answers where the reward needs to know; else leaves the groups as they are.

    Raises:
        ConfigError: A transcript and the gold answer after it may be longer than `model` has positions.
    """
    gold = components.reward.gold
    if gold is None:
        return lambda groups: groups
    max_tokens, num_prefix_tokens = components.rollout.max_tokens, len(renderer.text_ids(gold.prefix))
    longest = max_tokens - 1 + num_prefix_tokens + gold.max_tokens  # a turn has at least one token
    if longest > (positions := num_positions(model)):
        raise ConfigError(
            f"rollout.max_tokens={max_tokens} and reward.gold.max_tokens={gold.max_tokens}: with the "
            f"{num_prefix_tokens} tokens of reward.gold.prefix the policy may be asked about {longest} tokens, but "
            f"model.path={components.model.path} has {positions} positions"
        )
    return GoldProbe(policy=policy, renderer=renderer, prefix=gold.prefix, max_answer_tokens=gold.max_tokens)


def evaluation_reward(components: Components) -> Reward:
    """Grades answers as training does; accuracy is one number whatever the algorithm rewards beside it."""
    return OutcomeReward(grader=components.reward.grader)


def load_model(components: Components, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model, when the rollouts fit into its context.

    Raises:
        ConfigError: `rollout.max_tokens` is more than the model has positions.
    """
    model = components.model.load_model(device, dtype, compute_dtype(components, device))
    if components.rollout.max_tokens > (positions := num_positions(model)):
        raise ConfigError(
            f"rollout.max_tokens={components.rollout.max_tokens}: model.path={components.model.path} has {positions} "
            f"positions"
        )
    return model


def num_positions(model: nn.Module) -> int:
    """Tokens that fit into the model's context."""
    return cast(Any, model).config.max_position_embeddings


def compute_dtype(components: Components, device: torch.device) -> torch.dtype:
    """Precision of the passes on `device`."""
    wanted = components.trainer.dtype
    if wanted is Precision.auto:
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if wanted is Precision.bfloat16 else torch.float32


def rollout_limits(components: Components) -> RolloutLimits:
    """What bounds a trajectory, in training and in evaluation."""
    return RolloutLimits(max_turns=components.rollout.max_turns, max_tokens=components.rollout.max_tokens)


def start_tracker(
    components: Components, run_dir: Path, console: Console, first_step: int, num_steps: int | None = None
) -> Tracker:
    """The chosen tracker and the display on the terminal."""
    recorded = components.tracker.start(
        run_dir, first_step=first_step, label=components.label, config=components.config
    )
    last_step = components.trainer.num_steps if num_steps is None else num_steps
    has_tool = components.env.tool_language is not None
    shown = ProgressTracker(last_step, console, first_step, has_tool=has_tool)
    return CompositeTracker([recorded, shown])


def start_environments(components: Components, run_dir: Path, console: Console) -> EnvironmentPool:
    """The environment with what it needs; says and records how programs of the policy are kept apart."""
    environments = components.env.start()
    record_isolation(run_dir, isolation := environments.isolation)
    if isolation is Isolation.unsafe:
        console.print("[bold red]the policy's programs are not isolated: they can do all that you can[/]")
    elif isolation is not None:
        console.print(f"[dim]isolation of the policy's programs: {isolation.words}[/]", highlight=False)
    return environments


def start_engine(components: Components, renderer: ChatRenderer, device: torch.device) -> RolloutEngine:
    """The engine with a copy of the model of its own; `sampling` closes it."""
    model = load_model(components, device, compute_dtype(components, device))
    return components.engine.start(model, renderer.stop_token_ids, max_tokens=components.rollout.max_tokens)


@asynccontextmanager
async def sampling(
    components: Components, renderer: ChatRenderer, engine: RolloutEngine, environments: EnvironmentPool
) -> AsyncIterator[RolloutSampler]:
    """The engine joined with the environments, both ended on the way out."""
    try:
        sampler = RolloutSampler(
            engine=engine, environments=environments, renderer=renderer, limits=rollout_limits(components)
        )
        yield sampler
    finally:
        await environments.close()
        await engine.close()


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`; SIGINT, SIGTERM and the file of `stopping.STOP_FILE` cancel it.

    It may finish what it must before KeyboardInterrupt is raised, after SIGTERM as `Preempted`. A second signal ends
    the process at once, whatever it is at.
    """
    told: list[signal.Signals] = []

    async def cancellable() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        stop = task.cancel

        def first(number: signal.Signals) -> None:
            told.append(number)
            loop.call_soon_threadsafe(stop)

        watcher = asyncio.create_task(cancel_when_told(task))
        with on_first_signal(first):
            try:
                return await work
            finally:
                watcher.cancel()

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise (Preempted if signal.SIGTERM in told else KeyboardInterrupt) from None


def seconds_before(run_dir: Path) -> float:
    """What earlier starts of the run took, as far as they came to write it down."""
    try:
        return read_summary(run_dir).wall_s
    except (FileNotFoundError, ValueError):
        return 0.0


@contextmanager
def closing(run_dir: Path, tracker: Tracker | ExitStack, console: Console) -> Iterator[None]:
    """Whatever ends the run: closes the tracker, or those on a stack, and leaves and prints how it ended.

    That is summary.json, report.html and the closing table.
    """
    started = perf_counter() - seconds_before(run_dir)
    outcome, why = Outcome.failed, ""
    try:
        yield
        outcome = Outcome.finished
    except KeyboardInterrupt as told:
        outcome, why = Outcome.stopped, "interrupted; the same command with this hydra.run.dir goes on from here"
        raise SystemExit(0 if isinstance(told, Preempted) else INTERRUPTED) from None
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise
    finally:
        # A first signal must not cost the report; after one that stopped the run, the next ends the process anyway.
        with nullcontext() if outcome is Outcome.stopped else on_first_signal(lambda _: None):
            try:
                _leave_word(run_dir, tracker, console, outcome, why, perf_counter() - started)
            except OSError as error:
                if outcome is Outcome.finished or error.errno not in DISK_ERRORS:
                    raise
                say(console, f"warning: {error}: there is no report")  # why the run ended matters more


def _leave_word(
    run_dir: Path, tracker: Tracker | ExitStack, console: Console, outcome: Outcome, why: str, wall_s: float
) -> None:
    try:
        tracker.close()
    finally:
        summary = summarise_run(run_dir, outcome=outcome, why=why, wall_s=wall_s)
        write_summary(run_dir, summary)
        results = write_table(run_dir)
        write_report(run_dir)
        console.print(closing_table(run_dir, summary, results))
