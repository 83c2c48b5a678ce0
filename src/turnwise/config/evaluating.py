"""The evaluator of a run, and the protocol that its numbers stand under."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from turnwise.config.parts import Components
from turnwise.config.wiring import divided, evaluation_reward, rollout_limits
from turnwise.env.no_tool import NoTool
from turnwise.env.python_tool import PythonToolPool
from turnwise.evaluation.evaluate import Arm, Evaluator
from turnwise.evaluation.kept import check_kept
from turnwise.evaluation.protocol import EvaluationProtocol, problems_digest
from turnwise.evaluation.settings import Tools
from turnwise.model.chat import ChatRenderer
from turnwise.protocols import EnvironmentPool, RolloutEngine
from turnwise.ranks import current
from turnwise.rollout.sampler import RolloutSampler, Sampler
from turnwise.tracker.evaluations import WITHOUT_TOOL, set_folder
from turnwise.types import Problem

SAMPLING_FIELDS = ("num_samples", "temperature", "top_k", "top_p")
"""Of `evaluation`: what a number depends on beside the problems themselves."""
GRADING_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")
"""What a grade depends on beside our own code (`evaluation.protocol.VERSION`)."""
HOW_IT_RUNS = (
    "max_infrastructure_rate",
    "sandbox._target_",
    "sandbox.num_workers",
    "sandbox.preloaded",
    "sandbox.socket",
    "sandbox.tier",
    "sandbox.total_memory_mb",
    "sandbox.allow_unsafe",
    "sandbox.url",
    "sandbox.token_variable",
)
"""Keys of `env` that decide how and where programs run, and not what they are answered."""


def start_evaluator(
    components: Components,
    rollouts: Sampler,
    environments: EnvironmentPool,
    engine: RolloutEngine,
    renderer: ChatRenderer,
    run_dir: Path,
    *,
    second_opinion: bool = False,
    weights: str = "",
    say: Callable[[str], None] = lambda _: None,
    tells_progress: bool = False,
) -> Evaluator:
    """Joins the sampler of the rollouts, and one without the tool where `evaluation.tools` wants it, to an evaluator.

    Args:
        components: The run's.
        rollouts: What samples with the tool.
        environments: What it plays in; its sandbox runs the tests of programs that were written without the tool too.
        engine: What it samples from.
        renderer: The policy's chat template.
        run_dir: The run's folder.
        second_opinion: Whether two other graders are asked too.
        weights: Whose they are, if an interrupted evaluation may go on.
        say: Told what a person should know.
        tells_progress: Whether that is how far a long evaluation is, too.
    """
    samplers = {"": rollouts}
    if components.evaluation.tools is not Tools.on:
        judges = environments.judge if isinstance(environments, PythonToolPool) else None
        samplers[WITHOUT_TOOL] = divided(
            RolloutSampler(
                engine=engine,
                environments=without_tool(components).start(judges),
                renderer=renderer,
                limits=rollout_limits(components),
            ),
            beside=rollouts,
        )
    arms = [
        Arm(suffix=suffix, rollouts=samplers[suffix], protocol=protocol)
        for suffix, protocol in protocols(components).items()
    ]
    return Evaluator(
        settings=components.evaluation,
        arms=arms,
        reward=evaluation_reward(components),
        grader=components.reward.grader,
        run_dir=run_dir,
        second_opinion=second_opinion,
        weights=weights,
        say=say,
        tells_progress=tells_progress,
        ranks=current(),
    )


def protocols(components: Components) -> dict[str, Callable[[Sequence[Problem]], EvaluationProtocol]]:
    """What makes the protocol of some problems, by what ends the names of the results that it stands beside."""
    both = {
        "": partial(protocol_of, components, tool_settings(components)),
        WITHOUT_TOOL: partial(protocol_without_tool, components),
    }
    wanted = {Tools.on: [""], Tools.off: [WITHOUT_TOOL], Tools.both: ["", WITHOUT_TOOL]}[components.evaluation.tools]
    return {suffix: both[suffix] for suffix in wanted}


def check_kept_evaluations(
    components: Components, eval_sets: Mapping[str, Sequence[Problem]], run_dir: Path, weights: str
) -> None:
    """Looks into the run's folder before anything is loaded.

    Raises:
        ValueError: It holds evaluations of other weights or by another protocol.
    """
    for suffix, protocol in protocols(components).items():
        for name, problems in eval_sets.items():
            check_kept(set_folder(run_dir, f"{name}{suffix}"), 0, protocol(problems), weights)


def without_tool(components: Components) -> NoTool:
    """The environment in which the policy must answer by itself, asked as its model wants to be."""
    model = components.model
    return NoTool(
        system_prompt=model.system_prompt_without_tool,
        examples=model.examples_without_tool,
        problem_suffix=model.problem_suffix_without_tool,
    )


def protocol_of(components: Components, env: Mapping[str, Any], problems: Sequence[Problem]) -> EvaluationProtocol:
    """What a number of this run on `problems` depends on besides the model.

    Args:
        components: The run's.
        env: The environment's settings that matter for what a trajectory becomes.
        problems: Those of the evaluation set.
    """
    config = components.config
    return EvaluationProtocol(
        content={
            "problems": {"num": len(problems), "digest": problems_digest(problems)},
            "sampling": {name: config["evaluation"][name] for name in SAMPLING_FIELDS},
            "limits": {name: config["rollout"][name] for name in ("max_turns", "max_tokens")},
            "env": dict(env),
            "chat": _chat(components),
            "grader": {**config["reward"]["grader"], **{name: version(name) for name in GRADING_PACKAGES}},
        }
    )


def protocol_without_tool(components: Components, problems: Sequence[Problem]) -> EvaluationProtocol:
    """The same for the arm without the tool: one turn; the sandbox counts only where it tests programs."""
    env: dict[str, Any] = {"_target_": f"{NoTool.__module__}.{NoTool.__qualname__}", **asdict(without_tool(components))}
    if any(problem.tests for problem in problems):
        env["sandbox"] = tool_settings(components)["sandbox"]
    content = protocol_of(components, env, problems).content
    return EvaluationProtocol(content={**content, "limits": {**content["limits"], "max_turns": 1}})


def tool_settings(components: Components) -> dict[str, Any]:
    """Of the environment with the tool, those that decide what a trajectory becomes."""

    def kept(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        fields = {key: value for key, value in node.items() if f"{prefix}{key}" not in HOW_IT_RUNS}
        return {
            key: kept(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in fields.items()
        }

    return kept(components.config["env"])


def _chat(components: Components) -> dict[str, Any]:
    """What replaces the model's own way to render messages."""
    model = components.model
    template = Path(model.chat_template).read_text(encoding="utf-8") if model.chat_template else ""
    return {"template": template, "options": dict(model.template_options)}
