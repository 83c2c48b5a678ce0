"""`warmstart.source=demonstrations`: the tiny policy from nothing, with a tokenizer of its own."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import cast

from rich.console import Console
from torch import nn

from turnwise.config.checks import check_has_tool
from turnwise.config.ending import run_to_end
from turnwise.config.errors import ConfigError, building
from turnwise.config.parts import Components
from turnwise.config.warmstart.lesson import Lesson, one_step_a_batch
from turnwise.config.wiring import (
    choose_device,
    rollout_limits,
    start_environments,
)
from turnwise.model.chat import ChatRenderer
from turnwise.model.tiny import new_tiny_model, train_tokenizer
from turnwise.protocols import Demonstrated, EnvironmentPool
from turnwise.warmstart.demonstrations import Demonstration, Script, as_trajectories, demonstrate_all


def from_demonstrations(components: Components, run_dir: Path, console: Console) -> Lesson:
    """Plays the task's demonstrations in the real environment and learns a tokenizer from what was said.

    Raises:
        ConfigError: The task has none, or an adapter is asked for.
    """
    check_has_tool(components, "warmstart")
    settings = components.warmstart
    if not isinstance(components.task, Demonstrated):
        raise ConfigError(
            "warmstart.source=demonstrations: this task has no demonstrations; expected task=arithmetic or task=chain, "
            "or warmstart.source=transcripts or self for a model that exists"
        )
    if components.model.lora_rank:
        raise ConfigError(
            f"warmstart.source=demonstrations model.lora_rank={components.model.lora_rank}: the model begins with "
            f"random weights, and an adapter would leave them so; expected 0"
        )
    device = choose_device(components)
    scripts = list(islice(components.task.demonstrations(components.seed), settings.num_demonstrations))
    with building():
        environments = start_environments(components, run_dir, console)
    demonstrations = run_to_end(_play(environments, scripts))
    tokenizer = train_tokenizer((text for one in demonstrations for text in one.texts), settings.vocab_size)
    renderer = ChatRenderer(tokenizer, "tiny")
    model = cast(nn.Module, new_tiny_model(tokenizer, components.seed))
    policy = one_step_a_batch(components, renderer, model.to(device))
    trajectories = run_to_end(as_trajectories(demonstrations, renderer, rollout_limits(components)))
    examples = [(one.problem, trajectory) for one, trajectory in zip(demonstrations, trajectories, strict=True)]
    return Lesson(policy=policy, examples=lambda: examples)


async def _play(environments: EnvironmentPool, scripts: Sequence[Script]) -> list[Demonstration]:
    try:
        return await demonstrate_all(scripts, environments)
    finally:
        await environments.close()
