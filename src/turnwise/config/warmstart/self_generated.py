"""`warmstart.source=self`: a model learns what it gets right itself (rejection sampling)."""

import threading
from contextlib import closing
from pathlib import Path

from rich.console import Console

from turnwise.config.checks import check_has_tool, check_prompts
from turnwise.config.ending import run_to_end
from turnwise.config.errors import ConfigError, building
from turnwise.config.health import watching
from turnwise.config.parts import Components
from turnwise.config.stopping import Stop
from turnwise.config.warmstart.lesson import Lesson, load_policy
from turnwise.config.wiring import (
    choose_device,
    evaluation_reward,
    sampling,
    start_engine,
    start_environments,
    start_tracker,
)
from turnwise.warmstart.imitation import Example
from turnwise.warmstart.selection import kept_examples
from turnwise.warmstart.waves import TRANSCRIPTS_FILE, Waves, plan_waves


def from_itself(components: Components, run_dir: Path, console: Console) -> Lesson:
    """Plans the waves and starts what samples them; what an earlier start has sampled is not sampled again.

    Raises:
        ConfigError: The model, the task or the environment is not as it must be.
    """
    check_has_tool(components, "warmstart")
    settings = components.warmstart
    with building():
        task = components.task.start(components.seed)
        plan = plan_waves(task, settings.num_problems, components.rollout.num_problems)
        problems = [problem for wave in plan for problem in wave]
        renderer = components.model.load_renderer()
        check_prompts(components, problems, renderer)
        waves = Waves(
            plan=plan,
            settings=components.rollout,
            keep_per_problem=settings.keep_per_problem,
            reward=evaluation_reward(components),
            renderer=renderer,
            opening=components.env,
            seed=components.seed,
            run_dir=run_dir,
        )
        first_wave = waves.finished()
    if len(problems) < settings.num_problems:
        console.print(
            f"the train split has {len(problems)} problems, fewer than warmstart.num_problems={settings.num_problems}",
            highlight=False,
        )
    policy = load_policy(components, renderer, console)
    if first_wave == len(plan):
        return Lesson(policy=policy, examples=lambda: _kept(waves, console), num_waves=len(plan))
    with building():
        environments = start_environments(components, run_dir, console)
        engine = start_engine(components, renderer, choose_device(components))

    stop, over = Stop(), threading.Event()

    async def sample() -> None:
        async with (
            sampling(components, renderer, engine, environments) as rollouts,
            watching(components, run_dir, stop, over),
        ):
            tracker = start_tracker(components, run_dir, console, first_step=first_wave, num_steps=len(plan))
            with closing(tracker):
                await engine.load_weights(policy.weights(), version=0)
                await waves.sample(rollouts, tracker, first_wave)

    def examples() -> list[Example]:
        try:
            run_to_end(sample(), stop)
        finally:
            over.set()
        return _kept(waves, console)

    return Lesson(policy=policy, examples=examples, num_waves=len(plan))


def _kept(waves: Waves, console: Console) -> list[Example]:
    """What is to be imitated of all waves; says how much that is.

    Raises:
        ConfigError: Nothing.
    """
    num_waves = len(waves.plan)
    tally = waves.tally(num_waves)
    console.print(f"{tally}; {waves.run_dir / TRANSCRIPTS_FILE}", highlight=False, soft_wrap=True)
    kept = kept_examples(waves.groups(num_waves), waves.keep_per_problem)
    if not kept:
        raise ConfigError(
            f"warmstart.source=self: not one trajectory of {tally.num_problems} problems is right and well-formed, so "
            f"there is nothing to learn; read them in {waves.run_dir / 'report.html'}, and try easier problems, "
            f"another prompt (env.system_prompt), a larger rollout.group_size or rollout.max_tokens"
        )
    return kept
