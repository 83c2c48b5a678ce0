"""The gradients that several arms make of the very same trajectories, while the policy stays as it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from turnwise.advantage.rloo import RlooAdvantage
from turnwise.config.checks import check_similarity, check_task
from turnwise.config.ending import run_to_end
from turnwise.config.errors import ConfigError, building
from turnwise.config.parts import Components
from turnwise.config.wiring import (
    choose_device,
    evaluation_reward,
    load_model,
    policy_dtype,
    sampling,
    start_engine,
    start_policy,
    start_probe,
)
from turnwise.core.segments import Reduction
from turnwise.loss.clipped import ClippedLoss
from turnwise.protocols import PGK
from turnwise.rollout.packing import pack, taking_part
from turnwise.seeding import derive_seed, seed_everything
from turnwise.study.alike import flat
from turnwise.types import ScoredGroup

Rows = tuple[tuple[float, ...], ...]
"""A number for each turn of a group, `[G][K]`."""


def success(scored: ScoredGroup) -> Rows:
    """1 on the last turn of a trajectory that ends right."""
    pairs = zip(scored.turn_rewards_GK, scored.correct_G, strict=True)
    return tuple((*[0.0] * (len(row) - 1), float(is_correct)) if row else () for row, is_correct in pairs)


def turns(scored: ScoredGroup) -> Rows:
    """1 on every turn."""
    return tuple((1.0,) * len(row) for row in scored.turn_rewards_GK)


GOALS: Mapping[str, Callable[[ScoredGroup], Rows]] = {"success": success, "turns": turns}
"""What the arms' gradients are compared with: the unbiased ones of the expected accuracy and number of turns."""

CREDIT = ("reward", "advantage", "loss", "trainer")
"""Sections of a configuration that make a gradient of trajectories."""
UNBIASED = ClippedLoss(reduction=Reduction.constant)
"""Of the goals: a mean over the tokens of a step would divide by a number that depends on what was sampled."""


@dataclass(frozen=True, kw_only=True)
class StepGradients:
    """Gradients of B steps, uphill: `[B, D]` float32 for each arm and each goal."""

    arms: Mapping[str, Tensor]
    goals: Mapping[str, Tensor]
    accuracy: float
    """Share of the sampled trajectories that end right."""
    num_turns: float
    """Mean turns of a trajectory."""


def step_gradients(
    arms: Mapping[str, Components], num_steps: int, watch: Callable[[int], object] = lambda _: None
) -> StepGradients:
    """Samples `num_steps` steps from one policy and differentiates each as every arm would at its only optimiser step.

    Memory: a float32 number for every weight, step, arm and goal.

    Args:
        arms: By name; the first one samples. They differ in reward, advantage and loss alone.
        num_steps: B.
        watch: Told the number of steps that are done.

    Raises:
        ConfigError: An arm differs from the others in what is sampled, its loss needs a reference policy or entropies,
            or a part of it cannot be started.
    """
    check_arms(arms)
    first = next(iter(arms.values()))
    rollout_settings = first.rollout
    sampled_at: dict[str, Any] = {
        "temperature": rollout_settings.temperature,
        "top_k": rollout_settings.top_k,
        "top_p": rollout_settings.top_p,
    }
    seed_everything(first.seed)
    with building():
        task = first.task.start(first.seed)
        renderer = first.model.load_renderer()
        check_task(first, task, renderer)
        device = choose_device(first)
        model = load_model(first, device, policy_dtype(first, device))
        policy = start_policy(first, renderer, model)
        probes = {name: start_probe(arm, policy, renderer, model) for name, arm in arms.items()}
        for arm in arms.values():
            check_similarity(arm)
        environments = first.env.start()
        engine = start_engine(first, renderer, device)

    reward = evaluation_reward(first)
    found: dict[str, list[Tensor]] = {name: [] for name in (*arms, *GOALS)}
    outcomes: list[tuple[bool, int]] = []

    async def run() -> None:
        async with sampling(first, renderer, engine, environments) as rollouts:
            for step in range(num_steps):
                rollout = await rollouts.sample(
                    task.next_batch(first.rollout.num_problems),
                    group_size=first.rollout.group_size,
                    **sampled_at,
                    seed=derive_seed(first.seed, "rollout", step),
                )
                for name, arm in arms.items():
                    scored = [arm.reward(group) for group in probes[name](rollout.groups)]
                    takes_part = taking_part(
                        scored,
                        drop_void_turns=arm.trainer.drop_void_turns,
                        drop_equal_outcomes=arm.trainer.drop_equal_outcomes,
                    )
                    batch = pack(scored, arm.advantage(scored), takes_part=takes_part, **sampled_at)
                    found[name].append(-policy.gradient(batch, arm.loss))
                scored = [reward(group) for group in rollout.groups]
                for name, goal in GOALS.items():
                    batch = pack(scored, above_siblings(scored, goal), **sampled_at)
                    found[name].append(-policy.gradient(batch, UNBIASED))
                outcomes.extend(
                    (is_correct, len(trajectory.turns))
                    for one in scored
                    for trajectory, is_correct in zip(one.group.trajectories, one.correct_G, strict=True)
                    if not trajectory.is_excluded
                )
                watch(step + 1)

    run_to_end(run())
    accuracy, num_turns = torch.tensor(outcomes, dtype=torch.float64).mean(dim=0).tolist()
    return StepGradients(
        arms={name: torch.stack(found.pop(name)) for name in arms},
        goals={name: torch.stack(found.pop(name)) for name in GOALS},
        accuracy=accuracy,
        num_turns=num_turns,
    )


def above_siblings(scored_groups: Sequence[ScoredGroup], goal: Callable[[ScoredGroup], Rows]) -> PGK:
    """Advantages of the unbiased gradient of a goal: its sum over the trajectory, above the mean of the siblings'.

    Nothing is discounted or divided by a spread, so that with `UNBIASED` the gradient of a step is, in expectation and
    up to a constant, that of the expected goal.
    """
    rewarded = []
    for scored in scored_groups:
        rows = goal(scored)
        rewarded.append(replace(scored, turn_rewards_GK=rows, terms={"goal": rows}, outcome_terms=()))
    return RlooAdvantage()(rewarded)


def check_arms(arms: Mapping[str, Components]) -> None:
    """Refuses arms that do not sample alike, take several optimiser steps, or need more than the sampled tokens.

    Raises:
        ConfigError: With the arm and the key.
    """
    if not arms:
        raise ConfigError("no arm named")
    (first, sampled), *others = ((name, _what_samples(arm)) for name, arm in arms.items())
    for name, own in others:
        for key in sampled | own:
            if own.get(key) != sampled.get(key):
                raise ConfigError(
                    f"{name} has {key}={own.get(key)}, {first} has {sampled.get(key)}: only arms that sample alike can "
                    "be compared on the same trajectories"
                )
    makers: dict[str, str] = {}
    for name, arm in arms.items():
        for key in ("kl_weight", "entropy_weight"):
            if getattr(arm.loss, key):
                raise ConfigError(f"{name}: loss.{key}={getattr(arm.loss, key)}: expected 0, the gradient of rewards")
        for key in ("num_epochs", "num_minibatches"):
            if (value := getattr(arm.trainer, key)) > 1:
                raise ConfigError(f"{name}: trainer.{key}={value}: expected 1, a step that is one gradient")
        maker = str({key: arm.config[key] for key in CREDIT})
        if (other := makers.setdefault(maker, name)) != name:
            raise ConfigError(f"{name} makes the same gradients as {other}")


def _what_samples(arm: Components) -> dict[str, object]:
    """The configuration by flat keys, without what makes a gradient of trajectories."""
    return flat({name: value for name, value in arm.config.items() if name not in CREDIT})
