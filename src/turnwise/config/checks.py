"""What a run looks at before its first step: its problems, their gold answers, its prompts."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from rich.console import Console

from turnwise import checkpoint
from turnwise.config.errors import ConfigError, building
from turnwise.config.parts import Components
from turnwise.config.wiring import say
from turnwise.env.opening import opening_messages
from turnwise.manifest import MANIFEST, damage_of
from turnwise.model.chat import ChatRenderer
from turnwise.protocols import Task
from turnwise.ranks import Ranks
from turnwise.reward.grading import ungradable
from turnwise.trainer_settings import ShardedTrainerSettings
from turnwise.types import Problem

MAX_LISTED = 10
"""Problems that a line names before it only counts."""


def listed(problems: Sequence[Problem]) -> str:
    """The first problems with their gold answers, and how many more there are."""
    named = [f"{problem.id}: {problem.answer[:60]!r}" for problem in problems[:MAX_LISTED]]
    more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    return "; ".join(named) + more


def warn_of_gold(components: Components, eval_sets: Mapping[str, Sequence[Problem]], console: Console) -> None:
    """Names the problems whose gold answer cannot be read as mathematics: they stay, and only equal text is right."""
    for name, problems in eval_sets.items():
        compared = [problem for problem in problems if not problem.tests]
        if dubious := ungradable(compared, components.reward.grader):
            say(
                console,
                f"warning: {name}: {len(dubious)} of {len(compared)} gold answers cannot be read; they stay, and only "
                f"equal text is right: {listed(dubious)}",
            )


def check_has_tool(components: Components, mode: str) -> None:
    """Refuses to train where no turn can call a tool: every first turn would be a format error.

    Raises:
        ConfigError: The environment has no tool.
    """
    if components.env.tool_language is None:
        raise ConfigError(
            f"mode={mode} env=no_tool: a first turn without a call is a format error, so every trajectory would have "
            f"one; expected an environment with a tool, and evaluation.tools=both to measure what it is worth"
        )


def check_ranks(components: Components, ranks: Ranks, device: torch.device) -> None:
    """Refuses what several processes cannot train together.

    Raises:
        ConfigError: The trainer, the batch or the device does not go with so many processes.
    """
    trainer, count = components.trainer, ranks.count
    if not isinstance(trainer, ShardedTrainerSettings):
        if count > 1:
            raise ConfigError(f"trainer=single is for one process, and torchrun started {count}: expected trainer=fsdp")
        return
    if (num_problems := components.rollout.num_problems) % count:
        raise ConfigError(
            f"rollout.num_problems={num_problems}: {count} processes cannot share them evenly, expected a multiple of "
            f"{count}"
        )
    if trainer.shard_size and count % trainer.shard_size:
        raise ConfigError(f"trainer.shard_size={trainer.shard_size}: expected a divisor of the {count} processes, or 0")
    if trainer.cpu_offload and device.type == "cpu":
        raise ConfigError("trainer.cpu_offload=true: the device is the CPU already, expected a GPU, or false")
    if trainer.max_staleness:
        raise ConfigError(f"trainer.max_staleness={trainer.max_staleness} trainer=fsdp: expected 0")
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and ranks.local_index >= num_gpus:
        raise ConfigError(
            f"torchrun started {ranks.local_index + 1} or more processes here, and there are {num_gpus} GPUs"
        )


def find_checkpoint(folder: Path, ranks: Ranks) -> Path | None:
    """The checkpoint that all ranks go on from: the first chooses it, the others must see the same; None without one.

    Raises:
        ConfigError: None that is there is whole, or some rank sees no such checkpoint or another one.
    """
    with building():
        newest = checkpoint.latest(folder) if ranks.is_first else None
    if (name := ranks.gather(newest and newest.name)[0]) is None:
        return None
    found = folder / name
    with building():
        if (damage := damage_of(found)) is not None:
            raise ConfigError(f"checkpoint {found} cannot be seen as the first rank sees it: {damage}")
    if len(set(ranks.gather((found / MANIFEST).read_bytes()))) > 1:
        raise ConfigError(f"checkpoint {found}: the ranks see different ones; expected a folder that all of them share")
    return found


def warn_of_damage(components: Components, console: Console) -> None:
    """Says so where the model is a checkpoint that is not as it was written: its numbers are not its policy's."""
    folder = Path(components.model.path).expanduser()
    if (folder / MANIFEST).is_file() and (damage := damage_of(folder, reads_all=True)) is not None:
        say(console, f"warning: model.path={folder}: {damage}; it was damaged, or changed by hand")


def check_task(components: Components, task: Task, renderer: ChatRenderer) -> None:
    """Draws a batch and the eval problems once and puts the cursor back: what does not fit is known before step 1.

    Raises:
        ValueError: The task holds too few problems.
        ConfigError: Not one prompt leaves room for a turn.
    """
    cursor = task.state_dict()
    problems = task.next_batch(components.rollout.num_problems)
    task.load_state_dict(cursor)
    eval_sets = task.eval_sets(components.evaluation.num_problems).values()
    check_prompts(components, [*problems, *chain.from_iterable(eval_sets)], renderer)


def check_prompts(components: Components, problems: Sequence[Problem], renderer: ChatRenderer) -> None:
    """Refuses a limit under which nothing could be sampled.

    Raises:
        ConfigError: Not one prompt leaves room for a turn.
    """
    shortest = min(len(renderer.prompt_ids(opening_messages(components.env, problem))) for problem in problems)
    if shortest >= components.rollout.max_tokens:
        raise ConfigError(
            f"rollout.max_tokens={components.rollout.max_tokens}: the shortest of {len(problems)} prompts has "
            f"{shortest} tokens"
        )


def check_similarity(components: Components) -> None:
    """Loads what shaping compares programs with, so that a missing package or model is known before step 1."""
    if components.reward.shaping:
        components.reward.similarity("print(1)", "print(2)")
