"""Our side of the comparison: `Trainer.step` with the parts of a run, whenever it is asked for. Run by peer.py.

Engine, sampler, advantage, packing, policy and loss are those that the configuration names. Problems, environment and
reward stand for nothing: one turn, no tool, a number for its length.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from peer_work import (
    GROUP_SIZE,
    LEARNING_RATE,
    NEW_TOKENS,
    NUM_PROBLEMS,
    Turns,
    arguments,
    conversations,
    reward_of,
)
from turnwise.config.parts import Components
from turnwise.config.sweep import compose_components
from turnwise.config.wiring import choose_device, compute_dtype, load_model, start_policy
from turnwise.evaluation.evaluate import Evaluator
from turnwise.health import Health
from turnwise.protocols import PGK, Metrics, Policy, Renderer, RolloutEngine, Task
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.sampler import RolloutSampler
from turnwise.trainer import Trainer
from turnwise.types import Group, Message, Problem, ScoredGroup, StepResult


class Prompts:
    """A task: the prompts of the comparison, each as a problem, in order."""

    name = "prompts"

    def __init__(self, count: int) -> None:
        self.removed: dict[str, int] = {}
        self._problems = [
            Problem(id=str(number), prompt=tuple(Message(**row) for row in rows), answer="none", source=self.name)
            for number, rows in enumerate(conversations(count))
        ]
        self._cursor = 0

    def next_batch(self, num_problems: int) -> list[Problem]:
        """The next ones."""
        self._cursor += num_problems
        return self._problems[self._cursor - num_problems : self._cursor]

    def eval_sets(self, num_problems: int) -> dict[str, list[Problem]]:
        """The first ones; nothing is evaluated."""
        return {self.name: self._problems[:num_problems]}

    def state_dict(self) -> dict[str, Any]:
        """The cursor."""
        return {"cursor": self._cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts it back."""
        self._cursor = state["cursor"]


class OneTurn:
    """An environment, and the pool of it: the prompt and nothing after it."""

    isolation = None

    def __init__(self, messages: tuple[Message, ...] = ()) -> None:
        self._messages = messages

    def episode(self, problem: Problem) -> "OneTurn":
        """A fresh episode."""
        return OneTurn(problem.prompt)

    def initial_messages(self) -> tuple[Message, ...]:
        """The prompt."""
        return self._messages

    async def step(self, turn_text: str) -> StepResult:
        """Never called: every turn ends at its limit of tokens, and the trajectory with it."""
        raise AssertionError(f"a turn ended before its limit: {turn_text!r}")

    async def close(self) -> None:
        """Holds nothing."""


class LastFigures:
    """A tracker that remembers the last line."""

    def __init__(self) -> None:
        self.figures: Metrics = {}

    def log(self, metrics: Metrics, step: int) -> None:
        """Keeps it."""
        self.figures = metrics

    def log_groups(self, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, step: int) -> None:
        """Keeps nothing."""

    def close(self) -> None:
        """Holds nothing."""


def length_reward(group: Group) -> ScoredGroup:
    """Scores the text of each sample."""
    rows = tuple(tuple(reward_of(turn.text) for turn in trajectory.turns) for trajectory in group.trajectories)
    return ScoredGroup(
        group=group,
        turn_rewards_GK=rows,
        terms={"length": rows},
        correct_G=(False,) * len(rows),
        outcome_terms=("length",),
    )


def chosen_components(model: str, dtype: str, *, token_budget: int = 512) -> Components:
    """The configuration of the comparison; what it does not name is as in any run."""
    return compose_components(
        [
            "algo=grpo",
            "model=smollm2_135m",
            f"model.path={model}",
            f"rollout.num_problems={NUM_PROBLEMS}",
            f"rollout.group_size={GROUP_SIZE}",
            "rollout.max_turns=1",
            "trainer.device=cpu",
            f"trainer.dtype={dtype}",
            f"trainer.learning_rate={LEARNING_RATE}",
            f"trainer.token_budget={token_budget}",
            "trainer.logit_chunk=1024",
        ],
        label="peer",
    )


def one_turn_trainer(
    components: Components,
    *,
    policy: Policy,
    engine: RolloutEngine,
    renderer: Renderer,
    task: Task,
    max_tokens: int,
    folder: Path,
) -> tuple[Trainer, LastFigures]:
    """A trainer of steps of one turn, each as long as `max_tokens` allows; its figures are those of the last step."""
    tracker = LastFigures()
    limits = RolloutLimits(max_turns=1, max_tokens=max_tokens)
    trainer = Trainer(
        seed=0,
        settings=components.trainer,
        rollout_settings=components.rollout,
        task=task,
        policy=policy,
        engine=engine,
        rollouts=RolloutSampler(engine=engine, environments=OneTurn(), renderer=renderer, limits=limits),
        probe=lambda groups: groups,
        reward=length_reward,
        evaluator=Evaluator(
            settings=components.evaluation,
            arms=[],
            reward=length_reward,
            grader=components.reward.grader,
            run_dir=folder,
        ),
        advantage=components.advantage,
        loss=components.loss,
        tracker=tracker,
        health=Health(components.health),
        checkpoints=folder,
    )
    return trainer, tracker


async def main() -> None:
    """Does as many steps as the command line says."""
    options, turns = arguments(), Turns()
    components = chosen_components(options.model, options.dtype)
    device = choose_device(components)
    renderer = components.model.load_renderer()
    policy = start_policy(components, renderer, load_model(components, device, torch.float32))
    model = load_model(components, device, compute_dtype(components, device))
    engine = components.engine.start(model, frozenset(), max_tokens=components.rollout.max_tokens)
    task = Prompts(NUM_PROBLEMS * (options.steps + 1))
    (num_prompt_tokens,) = {len(renderer.prompt_ids(problem.prompt)) for problem in task.eval_sets(10**6)[task.name]}
    with TemporaryDirectory() as folder:
        trainer, tracker = one_turn_trainer(
            components,
            policy=policy,
            engine=engine,
            renderer=renderer,
            task=task,
            max_tokens=num_prompt_tokens + NEW_TOKENS,
            folder=Path(folder),
        )
        for step in range(1, options.steps + 1):  # an evaluation is due before step 0
            turns.wait()
            started = perf_counter()
            await trainer.step(step)
            figures = tracker.figures
            turns.answer(
                step_s=perf_counter() - started,
                rollout_s=figures["time/rollout_s"],
                update_s=figures["time/update_s"],
                num_tokens=figures["loss/num_tokens"],
                num_prompt_tokens=num_prompt_tokens,
            )
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
