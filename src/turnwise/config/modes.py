"""What a start can do: train or evaluate; a warm start and rescoring have modules of their own."""

import threading
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import ClassVar

from turnwise import checkpoint
from turnwise.config.checks import (
    check_has_tool,
    check_prompts,
    check_ranks,
    check_similarity,
    check_task,
    find_checkpoint,
    warn_of_damage,
    warn_of_gold,
)
from turnwise.config.ending import closing, run_to_end
from turnwise.config.errors import ConfigError, building
from turnwise.config.evaluating import check_kept_evaluations, start_evaluator
from turnwise.config.health import watching
from turnwise.config.parts import Components
from turnwise.config.provenance import record_removed
from turnwise.config.room import check_room
from turnwise.config.stopping import Stop
from turnwise.config.training import Training
from turnwise.config.wiring import (
    announce,
    choose_device,
    compute_dtype,
    load_policy_model,
    load_reference,
    sampling,
    say,
    start_engine,
    start_environments,
    start_policy,
    start_probe,
    start_sharding,
    start_tracker,
)
from turnwise.model.attention import choose_attention
from turnwise.ranks import current
from turnwise.tracker.evaluations import check_readable
from turnwise.tracker.files import read_metrics


@dataclass(frozen=True, kw_only=True)
class Train:
    """Trains the policy, from the last checkpoint of the folder when there is one."""

    takes_ranks: ClassVar[bool] = True
    looks_at_steps: ClassVar[bool] = True

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Runs to the end; leaves summary.json and report.html however it ends."""
        if not components.task.has_train:
            raise ConfigError(
                "mode=train: this task has nothing to train on: expected mode=evaluate, or a train task for the suite "
                "(+task@task.train=NAME)"
            )
        check_has_tool(components, "train")
        console = announce(components, run_dir)
        with building():
            task = components.task.start(components.seed)
            check_similarity(components)
            renderer = components.model.load_renderer()
            check_task(components, task, renderer)
            if current().is_first:
                record_removed(run_dir, task.removed)
            warn_of_gold(components, task.eval_sets(components.evaluation.num_problems), console)
            device = choose_device(components)
            check_ranks(components, current(), device)
            check_room(components, run_dir, device, current())
            model, reference = load_policy_model(components, device), load_reference(components, device)
            kernel, reason = choose_attention(components.model.attention, device, compute_dtype(components, device))
            console.print(f"[dim]attention of the update: {kernel} ({reason})[/]", highlight=False)
            environments = start_environments(components, run_dir, console)
            engine = start_engine(components, renderer, device)
        found = find_checkpoint(run_dir / "checkpoints", current())
        with building():  # from here on the ranks work together, and what is refused is refused by all of them alike
            policy = start_policy(components, renderer, model, reference, start_sharding(components, device))
            probe = start_probe(components, policy, renderer, model)
            first_step = 0 if found is None else checkpoint.restore(found, policy, task)
            num_steps = components.trainer.num_steps
            if first_step > num_steps:
                raise ConfigError(f"trainer.num_steps={num_steps}: {run_dir} already holds {first_step} steps")
            if current().is_first:
                check_readable(run_dir, first_step)
            if current().is_first and found is None and next(read_metrics(run_dir), None) is not None:
                say(console, "warning: there are figures of an earlier start, but no checkpoint: the run begins anew")
            training = Training(
                components=components,
                run_dir=run_dir,
                console=console,
                renderer=renderer,
                task=task,
                policy=policy,
                probe=probe,
                engine=engine,
                environments=environments,
            )
            tracker = training.start_tracker(first_step)
        if current().is_first and found is not None:  # every rank has read it
            checkpoint.take_back(run_dir / "checkpoints", found, first_step)
            say(console, f"goes on after step {first_step} of {num_steps}, from {found}")
        stop = Stop()
        try:
            with closing(run_dir, training.trackers, console):
                run_to_end(training.run(first_step, tracker, stop), stop)
        finally:
            training.over.set()


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Scores a model on the evaluation sets, by the very path that evaluations during training take."""

    takes_ranks: ClassVar[bool] = True
    looks_at_steps: ClassVar[bool] = False

    second_opinion: bool = True
    """Grade every answer by exact numbers with sympy, and by math-verify alone, too, and say where they disagree."""

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Leaves the figures in metrics.jsonl and summary.json, and every trajectory in evaluations/.

        Started again in the same folder it goes on where it was interrupted.
        """
        console = announce(components, run_dir)
        with building():
            task = components.task.start(components.seed)
            eval_sets = task.eval_sets(components.evaluation.num_problems)
            renderer = components.model.load_renderer()
            check_prompts(components, list(chain.from_iterable(eval_sets.values())), renderer)
            warn_of_damage(components, console)
            weights = components.model.identity()
            check_kept_evaluations(components, eval_sets, run_dir, weights)
            warn_of_gold(components, eval_sets, console)
            for name, problems in eval_sets.items():
                if len(problems) < components.evaluation.num_problems:
                    say(console, f"{name}: {len(problems)} problems, all that its held-out part has")
            device = choose_device(components)
            environments = start_environments(components, run_dir, console)
            engine = start_engine(components, renderer, device)
            tracker = start_tracker(components, run_dir, console, first_step=0, num_steps=0)

        stop, over = Stop(), threading.Event()

        async def run() -> None:
            async with (
                sampling(components, renderer, engine, environments, stop) as rollouts,
                watching(components, run_dir, stop, over),
            ):
                evaluator = start_evaluator(
                    components,
                    rollouts,
                    environments,
                    engine,
                    renderer,
                    run_dir,
                    second_opinion=self.second_opinion,
                    weights=weights,
                    say=partial(say, console),
                    tells_progress=True,
                )
                evaluation = await evaluator(eval_sets, 0)
            tracker.log(evaluation.metrics, 0)

        try:
            with closing(run_dir, tracker, console, has_checkpoints=False):
                if current().is_first:
                    renderer.save_pretrained(run_dir / "tokenizer")
                run_to_end(run(), stop)
        finally:
            over.set()
