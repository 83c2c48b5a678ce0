"""The live parts that modes have in common: made from the components, and ended whatever happens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from rich.console import Console
from torch import nn

from turnwise.config.allocator import keep_freed_memory
from turnwise.config.errors import ConfigError
from turnwise.config.parts import Components
from turnwise.config.provenance import record_isolation
from turnwise.config.stopping import Stop
from turnwise.config.threads import num_threads
from turnwise.model.chat import ChatRenderer
from turnwise.model.policy import TorchPolicy
from turnwise.model.sharding import Sharding, make_mesh
from turnwise.protocols import EnvironmentPool, Policy, Probe, Reward, RolloutEngine, Tracker
from turnwise.ranks import current
from turnwise.reward.outcome import OutcomeReward
from turnwise.rollout.divided import DividedSampler
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.gold import GoldProbe
from turnwise.rollout.sampler import RolloutSampler, Sampler
from turnwise.seeding import seed_everything
from turnwise.tracker.composite import CompositeTracker
from turnwise.tracker.progress import ProgressTracker
from turnwise.trainer_settings import Device, Precision, ShardedTrainerSettings
from turnwise.types import Isolation

T = TypeVar("T")


def announce(components: Components, run_dir: Path) -> Console:
    """Says what starts where, and seeds every global generator. Of several ranks the first one's console speaks."""
    console = Console(quiet=not current().is_first)
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
        torch.set_num_threads(num_threads(components.model.num_threads))
        return torch.device("cpu")
    return torch.device("cuda", current().local_index) if current().count > 1 else torch.device("cuda")


def start_sharding(components: Components, device: torch.device) -> Sharding | None:
    """How the policy is dealt out over the ranks, which meet here; None where the trainer is for one process."""
    settings = components.trainer
    if not isinstance(settings, ShardedTrainerSettings):
        return None
    return Sharding(
        mesh=make_mesh(device.type, current().count, settings.shard_size),
        device=device,
        dtype=compute_dtype(components, device),
        cpu_offload=settings.cpu_offload,
    )


def start_policy(
    components: Components,
    renderer: ChatRenderer,
    model: nn.Module,
    reference: nn.Module | None = None,
    sharding: Sharding | None = None,
) -> TorchPolicy:
    """The policy with its optimiser, and the frozen model that its loss compares it with; dealt out if so wanted."""
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
        dtype=compute_dtype(components, sharding.device if sharding else next(model.parameters()).device),
        num_epochs=settings.num_epochs,
        num_minibatches=settings.num_minibatches,
        has_entropy_gradient=components.loss.entropy_weight > 0,
        reference=reference,
        gradient_checkpointing=settings.gradient_checkpointing,
        lora_rank=components.model.lora_rank,
        lora_alpha=components.model.lora_alpha,
        ranks=current(),
        sharding=sharding,
    )


def policy_dtype(components: Components, device: torch.device) -> torch.dtype:
    """What the trained model is loaded in: float32, or that of the passes where only an adapter is trained."""
    return compute_dtype(components, device) if components.model.lora_rank else torch.float32


def load_policy_model(components: Components, device: torch.device) -> nn.Module:
    """The model that is trained on `device`: there already, or in the host's memory if it is dealt out from there."""
    place = torch.device("cpu") if isinstance(components.trainer, ShardedTrainerSettings) else device
    return load_model(components, device, policy_dtype(components, device), place)


def load_reference(components: Components, device: torch.device) -> nn.Module | None:
    """The starting weights, in a resumed run too, where the loss has a KL term; else None, and no memory is spent."""
    return load_policy_model(components, device) if components.loss.kl_weight else None


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


def load_model(
    components: Components, device: torch.device, dtype: torch.dtype, place: torch.device | None = None
) -> nn.Module:
    """The model, when the rollouts fit into its context.

    Raises:
        ConfigError: `rollout.max_tokens` is more than the model has positions.
    """
    model = components.model.load_model(device, dtype, compute_dtype(components, device), place)
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
    """The chosen tracker and the display on the terminal; of several ranks only the first has any."""
    if not current().is_first:
        return CompositeTracker([])
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
    isolation = environments.isolation
    if current().is_first:
        record_isolation(run_dir, isolation)
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
    components: Components,
    renderer: ChatRenderer,
    engine: RolloutEngine,
    environments: EnvironmentPool,
    stop: Stop | None = None,
) -> AsyncIterator[Sampler]:
    """The engine joined with the environments, both ended on the way out; `stop` is made an affair of all ranks."""
    try:
        sampler = RolloutSampler(
            engine=engine, environments=environments, renderer=renderer, limits=rollout_limits(components)
        )
        shared = divided(sampler)
        if stop is not None and isinstance(shared, DividedSampler):
            stop.act = shared.told.stop
        yield shared
    finally:
        await environments.close()
        await engine.close()


def divided(sampler: RolloutSampler, beside: Sampler | None = None) -> Sampler:
    """The sampler, or where there are several ranks one that shares the problems out over them.

    What tells `beside` to stop, another one of this run, tells it too.
    """
    told = beside.told if isinstance(beside, DividedSampler) else None
    return sampler if current().count == 1 else DividedSampler(sampler, current(), told)
