"""From a composed configuration to the objects that it names, checked one by one and against each other."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from turnwise.config.errors import ConfigError, explain, known_keys
from turnwise.config.options import option_groups
from turnwise.config.schema import COMPONENTS, HAS_GROUP
from turnwise.engine.hf import HFEngine
from turnwise.evaluation.evaluate import EvaluationSettings
from turnwise.model.attention import FLASH
from turnwise.model.causal_lm import CausalLM
from turnwise.protocols import AdvantageEstimator, EnvironmentPool, PolicyLoss, Reward, Similarity, Task, Tracker
from turnwise.reward.grading import Grader
from turnwise.reward.information_gain import GoldAnswer
from turnwise.reward.overlong import OverlongPenalty
from turnwise.rollout.sampler import RolloutSettings
from turnwise.trainer import Device, Precision, TrainerSettings


class ShapedReward(Reward, Protocol):
    """A reward whose shaping can be switched on."""

    @property
    def shaping(self) -> bool:
        """Whether a wrong trajectory earns something for code that resembles a correct sibling's."""
        ...

    @property
    def grader(self) -> Grader:
        """What decides whether an answer is right."""
        ...

    @property
    def similarity(self) -> Similarity:
        """What programs are compared with."""
        ...

    @property
    def overlong(self) -> OverlongPenalty:
        """What length costs."""
        ...

    @property
    def gold(self) -> GoldAnswer | None:
        """How the policy is asked for the gold answer; None where the reward does not need to know."""
        ...


class RegularisedLoss(PolicyLoss, Protocol):
    """A loss that says which of its terms need more of the policy than the log-probs of the sampled tokens."""

    @property
    def kl_weight(self) -> float:
        """Weight of the divergence from a reference policy; above 0 one is loaded."""
        ...

    @property
    def entropy_weight(self) -> float:
        """Weight of the entropy bonus; above 0 the entropies carry a gradient."""
        ...


class EnvironmentSettings(Protocol):
    """An environment before it starts."""

    @property
    def system_prompt(self) -> str:
        """What stands before every problem; empty: nothing."""
        ...

    @property
    def tool_language(self) -> str:
        """What calls of its tool are written in."""
        ...

    def start(self) -> EnvironmentPool:
        """What makes the episodes; the caller closes it."""
        ...


class TaskSettings(Protocol):
    """A task before it starts."""

    @property
    def tool_language(self) -> str | None:
        """What calls are written in by those who can solve its problems; None where any tool may serve."""
        ...

    def start(self, seed: int) -> Task:
        """The live task; `seed` orders its train split."""
        ...


class TrackerSettings(Protocol):
    """A tracker before it starts."""

    def start(self, run_dir: Path, *, first_step: int, label: str, config: Mapping[str, Any]) -> Tracker:
        """The live tracker of a run that goes on at `first_step`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Components:
    """Every part of a run, still without a life: nothing is loaded, opened or started."""

    seed: int
    label: str
    config: Mapping[str, Any]
    """The resolved configuration as plain values, for the record."""
    model: CausalLM
    engine: HFEngine
    env: EnvironmentSettings
    reward: ShapedReward
    advantage: AdvantageEstimator
    loss: RegularisedLoss
    task: TaskSettings
    rollout: RolloutSettings
    evaluation: EvaluationSettings
    trainer: TrainerSettings
    tracker: TrackerSettings


class Mode(Protocol):
    """What to do with the components: a frozen dataclass of `turnwise.config.modes`, called once."""

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Starts what it needs inside `errors.building()`, does its work, leaves its files in `run_dir`."""
        ...


def build_components(config: DictConfig, label: str) -> Components:
    """Makes the components and checks the relations between them.

    Raises:
        ConfigError: A value is missing, out of range, or does not go with another one; the keys are named.
    """
    _check_keys(config)
    if config.seed < 0:
        raise ConfigError(f"seed={config.seed}: expected >= 0")
    keys = [str(key) for key in config if key not in ("seed", "mode")]
    for key in keys:  # all of them first, because parts take values from one another
        _check_is_part(config, key)
    parts = {key: _build(config, key) for key in keys}
    values = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    components = Components(seed=config.seed, label=label, config=cast(dict[str, Any], values), **parts)
    check_relations(components)
    return components


def build_mode(config: DictConfig) -> Mode:
    """Makes the mode.

    Raises:
        ConfigError: A value of it is missing or out of range.
    """
    _check_is_part(config, "mode")
    return _build(config, "mode")


def _check_keys(node: DictConfig) -> None:
    """Refuses what Hydra lets pass: keys that no schema has (by `+key=value`), a plain value in place of a part."""
    schema, full_key = OmegaConf.get_type(node), node._get_full_key("")
    prefix = f"{full_key}." if full_key else ""
    fields = {field.name: field for field in dataclasses.fields(cast(type, schema)) if field.name != "_target_"}
    keys = sorted(fields)
    for name in node:
        if name not in keys and name != "_target_":
            raise ConfigError(f"{prefix}{name}: no such key; {known_keys(full_key, keys)}")
    for name in keys:
        if name in node and HAS_GROUP in fields[name].metadata and not OmegaConf.is_dict(node[name]):
            group = f"{prefix}{name}".replace(".", "/")
            choices = " or ".join(f"{group}={option}" for option in option_groups().get(group, []))
            raise ConfigError(f"{prefix}{name}={node[name]}: this part is chosen with a slash: {choices}")
        has_value = name in node and not OmegaConf.is_interpolation(node, name)
        if has_value and dataclasses.is_dataclass(OmegaConf.get_type(node, name)):
            _check_keys(node[name])


def _check_is_part(config: DictConfig, key: str) -> None:
    if not (OmegaConf.is_missing(config, key) or OmegaConf.is_dict(config[key])):
        raise ConfigError(f"{key}={config[key]}: expected values of its own, {key}.NAME=VALUE")


def _build(config: DictConfig, key: str) -> Any:
    try:
        return instantiate(config[key], _convert_="all")
    except OmegaConfBaseException as error:
        raise ConfigError(_placed(key, explain(error))) from error
    except InstantiationException as error:
        if not isinstance(error.__cause__, (ValueError, TypeError, OSError, ImportError)):
            raise
        place = re.search(r"full_key: (\S+)", str(error))
        raise ConfigError(_placed(place[1] if place else key, str(error.__cause__))) from error.__cause__


def _placed(full_key: str, message: str) -> str:
    """A component's complaint about a field, `discount=2: expected ...`, with the field's full key."""
    if message.startswith(full_key.partition(".")[0]):
        return message
    return f"{full_key}.{message}" if re.match(r"\w+=", message) else f"{full_key}: {message}"


def check_relations(components: Components) -> None:
    """Checks what concerns more than one component, before anything loads.

    Raises:
        ConfigError: Two values do not go together, or this machine lacks what one of them needs; all keys are named.
    """
    rollout, trainer = components.rollout, components.trainer
    _check_tool(components.task, components.env)
    if components.reward.shaping and rollout.group_size < 2:
        raise ConfigError(
            f"reward.shaping=true compares siblings, but rollout.group_size={rollout.group_size}: expected >= 2"
        )
    if rollout.group_size < 2 and components.advantage.compares_siblings:
        raise ConfigError(
            f"rollout.group_size={rollout.group_size}: this advantage compares the trajectories of a group, expected "
            f">= 2 (or one that compares those of the batch: advantage.pool=batch, or advantage=reinforce_pp without "
            f"advantage.group_baseline)"
        )
    if rollout.group_size < 2 and trainer.drop_equal_outcomes:
        raise ConfigError(
            f"trainer.drop_equal_outcomes=true would leave nothing to train on: with "
            f"rollout.group_size={rollout.group_size} the outcomes of a group are always equal, expected >= 2"
        )
    num_trajectories = rollout.group_size * rollout.num_problems
    if trainer.num_minibatches > num_trajectories:
        raise ConfigError(
            f"trainer.num_minibatches={trainer.num_minibatches}: a step has {num_trajectories} trajectories "
            f"(rollout.num_problems={rollout.num_problems} x rollout.group_size={rollout.group_size}): expected at "
            f"most as many minibatches"
        )
    if num_trajectories < 2:
        raise ConfigError(
            f"rollout.group_size={rollout.group_size} rollout.num_problems={rollout.num_problems}: a step of one "
            f"trajectory has nothing to compare it with, expected 2 trajectories or more"
        )
    if trainer.device is Device.cuda and not torch.cuda.is_available():
        raise ConfigError("trainer.device=cuda, but no CUDA device is visible here: use auto or cpu")
    on_cuda = trainer.device is not Device.cpu and torch.cuda.is_available()
    wanted = components.model.attention
    if wanted in FLASH and not (on_cuda and trainer.dtype is not Precision.float32):
        raise ConfigError(
            f"model.attention={wanted} needs a CUDA device and half precision, but trainer.device={trainer.device} is "
            f"{'cuda' if on_cuda else 'cpu'} here and trainer.dtype={trainer.dtype}: use model.attention=auto"
        )


def _check_tool(task: TaskSettings, env: EnvironmentSettings) -> None:
    """Refuses problems for one tool in an environment with another: a run would train on failures, and not say so."""
    wanted = task.tool_language
    if wanted in (None, env.tool_language):
        return
    name, fitting = _option(task), [key for key in COMPONENTS if key.startswith("env/") and _tool_of(key) == wanted]
    choices = [key.replace("/", "=") for key in fitting]
    if name in option_groups()["experiment"]:
        choices.append(f"experiment={name}, which chooses the model and limits for it too")
    raise ConfigError(
        f"task={name} env={_option(env)}: these problems are for a tool that is called in {wanted}, this one is called "
        f"in {env.tool_language}; expected {' or '.join(choices)}"
    )


def _option(part: object) -> str:
    """The option that made a part."""
    target = f"{type(part).__module__}.{type(part).__qualname__}"
    return next(key for key, one in COMPONENTS.items() if one == target).rpartition("/")[2]


def _tool_of(key: str) -> str:
    return get_class(COMPONENTS[key]).tool_language
