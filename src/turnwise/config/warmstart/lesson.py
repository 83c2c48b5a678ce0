"""What every source of a warm start prepares."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from rich.console import Console
from torch import nn

from turnwise.config.errors import ConfigError, building
from turnwise.config.parts import Components
from turnwise.config.wiring import choose_device, compute_dtype, load_model, policy_dtype, start_policy
from turnwise.model.attention import choose_attention
from turnwise.model.chat import ChatRenderer
from turnwise.model.policy import TorchPolicy
from turnwise.warmstart.imitation import Example


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A policy and what it is to imitate.

    `examples` gives the trajectories; where `num_waves` is above 0 it samples them first, so many steps of the run.
    """

    policy: TorchPolicy
    examples: Callable[[], list[Example]]
    num_waves: int = 0


def load_policy(components: Components, renderer: ChatRenderer, console: Console) -> TorchPolicy:
    """The policy of `model.path`, or an adapter on it, ready to learn.

    Raises:
        ConfigError: It cannot be loaded or trained.
    """
    with building():
        device = choose_device(components)
        model = load_model(components, device, policy_dtype(components, device))
        kernel, reason = choose_attention(components.model.attention, device, compute_dtype(components, device))
        console.print(f"[dim]attention of the update: {kernel} ({reason})[/]", highlight=False)
        return one_step_a_batch(components, renderer, model)


def one_step_a_batch(components: Components, renderer: ChatRenderer, model: nn.Module) -> TorchPolicy:
    """A policy that makes one optimiser step of a batch, however many the trainer's settings make in a step."""
    trainer = replace(components.trainer, num_epochs=1, num_minibatches=1)
    return start_policy(replace(components, trainer=trainer), renderer, model)


def check_positions(max_tokens: int, positions: int, path: str) -> None:
    """Refuses trajectories that are longer than the model's context.

    Raises:
        ConfigError: `max_tokens` is more than the model has positions.
    """
    if max_tokens > positions:
        raise ConfigError(f"warmstart.max_tokens={max_tokens}: model.path={path} has {positions} positions")
