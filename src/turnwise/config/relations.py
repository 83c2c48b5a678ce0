"""What must hold between the parts of a run, checked before anything loads."""

import torch
from hydra.utils import get_class

from turnwise.config.errors import ConfigError
from turnwise.config.options import option_groups
from turnwise.config.parts import Components, EngineSettings, EnvironmentSettings, TaskSettings
from turnwise.config.schema import COMPONENTS
from turnwise.core.correction import Correction
from turnwise.engine.vllm.local import VLLM
from turnwise.engine.vllm.server import VLLMServer
from turnwise.env.tool_format import ToolFormat
from turnwise.evaluation.settings import Tools
from turnwise.health_settings import Action
from turnwise.model.attention import FLASH
from turnwise.task.benchmark import Benchmark
from turnwise.task.suite import Suite
from turnwise.trainer_settings import Device, Precision
from turnwise.worked_examples import ExampleRole


def check_relations(components: Components) -> None:
    """Checks what concerns more than one component, before anything loads.

    Raises:
        ConfigError: Two values do not go together, or this machine lacks what one of them needs; all keys are named.
    """
    rollout, trainer = components.rollout, components.trainer
    _check_tool(components.task, components.env)
    _check_without_tool(components)
    _check_prompt(components.env)
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
    if trainer.max_staleness and components.loss.correction is Correction.none:
        raise ConfigError(
            f"trainer.max_staleness={trainer.max_staleness} trains on samples of older weights, and "
            f"loss.correction=none leaves them uncorrected: expected loss.correction=truncate, mask or geometric"
        )
    if trainer.max_staleness and (sleep := _sleep_key(components.engine)):
        raise ConfigError(
            f"trainer.max_staleness={trainer.max_staleness} samples while a step is trained on, and {sleep}=true drops "
            f"the sampler's weights meanwhile: use {sleep}=false or trainer.max_staleness=0"
        )
    _check_health(components)
    if trainer.device is Device.cuda and not torch.cuda.is_available():
        raise ConfigError("trainer.device=cuda, but no CUDA device is visible here: use auto or cpu")
    on_cuda = trainer.device is not Device.cpu and torch.cuda.is_available()
    _check_precision(trainer.dtype, on_cuda=on_cuda)
    wanted = components.model.attention
    if wanted in FLASH and not (on_cuda and trainer.dtype is not Precision.float32):
        raise ConfigError(
            f"model.attention={wanted} needs a CUDA device and half precision, but trainer.device={trainer.device} is "
            f"{'cuda' if on_cuda else 'cpu'} here and trainer.dtype={trainer.dtype}: use model.attention=auto"
        )


def _check_health(components: Components) -> None:
    """A monitor must be able to speak, and speaks some steps late; a checkpoint from before must be there then."""
    trainer, health = components.trainer, components.health
    for name, monitor in health.monitors():
        if monitor.action is Action.warn:
            continue
        if all(bound is None for bound in (monitor.min, monitor.max, monitor.min_ratio, monitor.max_ratio)):
            raise ConfigError(
                f"health.{name}.action={monitor.action}: its figure may go anywhere, so it would never speak; expected "
                f"one of health.{name}.min, max, min_ratio and max_ratio"
            )
        if monitor.patience > trainer.num_steps:
            raise ConfigError(
                f"health.{name}.patience={monitor.patience}: the run has trainer.num_steps={trainer.num_steps}, so it "
                f"would never speak; expected at most as many"
            )
        is_by_ratio = monitor.min is None and monitor.max is None
        if is_by_ratio and health.baseline_steps + monitor.patience > trainer.num_steps:
            raise ConfigError(
                f"health.{name}.action={monitor.action}: its ratios refer to the first "
                f"health.baseline_steps={health.baseline_steps} steps, it speaks after health.{name}.patience="
                f"{monitor.patience} more, and the run has trainer.num_steps={trainer.num_steps}: it would never "
                f"speak; expected fewer of them, or min or max"
            )
    if health.reference_kl.action in (Action.stop, Action.roll_back) and not components.loss.kl_weight:
        raise ConfigError(
            f"health.reference_kl.action={health.reference_kl.action}: without a reference policy there is no such "
            f"figure; expected loss.kl_weight > 0"
        )
    span = (trainer.keep_checkpoints - 1) * trainer.save_every
    for name, monitor in components.health.monitors():
        if monitor.action is Action.roll_back and trainer.keep_checkpoints and span < monitor.patience:
            raise ConfigError(
                f"health.{name}.action=roll_back: it speaks {monitor.patience} steps after the trouble began "
                f"(health.{name}.patience), and trainer.keep_checkpoints={trainer.keep_checkpoints} of "
                f"trainer.save_every={trainer.save_every} may leave no checkpoint from before; expected "
                f"(keep_checkpoints - 1) x save_every >= patience, or trainer.keep_checkpoints=0, which keeps all"
            )


def _sleep_key(engine: EngineSettings) -> str | None:
    """The key that puts the engine to sleep while the policy is updated; None where it stays awake."""
    match engine:
        case VLLM(sleep=True):
            return "engine.sleep"
        case VLLMServer(urls=[], serve=VLLM(sleep=True)):
            return "engine.serve.sleep"
        case _:
            return None


def _check_precision(dtype: Precision, *, on_cuda: bool) -> None:
    if dtype is not Precision.bfloat16:
        return
    supported = torch.cuda.is_bf16_supported() if on_cuda else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not supported:
        device = "GPU" if on_cuda else "CPU"
        raise ConfigError(f"trainer.dtype=bfloat16: this {device} cannot compute in it, use trainer.dtype=float32")


def _check_tool(task: TaskSettings, env: EnvironmentSettings) -> None:
    """Refuses problems for one tool in an environment with another: a run would train on failures, and not say so.

    An environment without a tool takes any problem: what can be done without is what it is there to measure.
    """
    wanted = task.tool_language
    if wanted is None or env.tool_language in (None, wanted):
        return
    environments = [key for key in COMPONENTS if key.rpartition("/")[0] == "env"]
    name = _task_name(task)
    fitting = [key for key in environments if _tool_of(key) == wanted]
    choices = [key.replace("/", "=") for key in fitting]
    if name in option_groups()["experiment"]:
        choices.append(f"experiment={name}, which chooses the model and limits for it too")
    raise ConfigError(
        f"task={name} env={_option(env)}: these problems are for a tool that is called in {wanted}, this one is called "
        f"in {env.tool_language}; expected {' or '.join(choices)}"
    )


def _check_without_tool(components: Components) -> None:
    """Refuses what an environment without a tool cannot do: run tests, and be compared with itself."""
    task, env, tools = components.task, components.env, components.evaluation.tools
    if env.tool_language is not None:
        return
    if _has_tests(task):
        raise ConfigError(
            f"task={_task_name(task)} env={_option(env)}: these problems have tests, which run in the sandbox of "
            f"env=python_tool: expected that, with evaluation.tools=off to measure what is done without the tool"
        )
    if tools is not Tools.on:
        raise ConfigError(
            f"evaluation.tools={tools} env={_option(env)}: there is no tool to be without, so the same would be "
            f"sampled {'twice' if tools is Tools.both else 'under another name'}: expected evaluation.tools=on, or an "
            f"environment with a tool"
        )


def _has_tests(task: object) -> bool:
    """Whether problems that a task is evaluated on ask for a program that tests decide on."""
    match task:
        case Benchmark():
            return bool(task.columns.tests)
        case Suite():
            chosen = [member for key, member in task.members.items() if not task.only or key in task.only]
            return any(map(_has_tests, chosen if task.only else [*chosen, task.train]))
        case _:
            return False


def _check_prompt(env: EnvironmentSettings) -> None:
    """Refuses a prompt that asks for calls in a format that is not read: every turn of the run would be void."""
    if env.tool_format is None:
        return
    said = "\n".join(one.content for one in env.examples if one.role is ExampleRole.assistant)
    for key, text in {"env.system_prompt": env.system_prompt, "env.examples": said}.items():
        shown = [one for one in ToolFormat if one.mark in text]
        if shown and env.tool_format not in shown:
            raise ConfigError(
                f"env.tool_format={env.tool_format}, but {key} shows calls as {shown[0]}: expected "
                f"env.tool_format={shown[0]}, or a prompt that shows {env.tool_format.mark!r}; model=instruct and "
                f"model=instruct_hermes have one for Python each"
            )


def _task_name(task: TaskSettings) -> str:
    return task.name if isinstance(task, Benchmark | Suite) else _option(task)


def _option(part: object) -> str:
    """The option that made a part."""
    target = f"{type(part).__module__}.{type(part).__qualname__}"
    return next(key for key, one in COMPONENTS.items() if one == target).rpartition("/")[2]


def _tool_of(key: str) -> str | None:
    return get_class(COMPONENTS[key]).tool_language
