"""`mode=warmstart`: supervised learning before reinforcement learning."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from turnwise.config.ending import closing, run_to_end
from turnwise.config.errors import ConfigError, building
from turnwise.config.parts import Components
from turnwise.config.warmstart.demonstrations import from_demonstrations
from turnwise.config.warmstart.self_generated import from_itself
from turnwise.config.warmstart.transcripts import from_transcripts
from turnwise.config.wiring import (
    announce,
    start_tracker,
)
from turnwise.seeding import derive_seed
from turnwise.tracker.files import read_metrics
from turnwise.warmstart.imitation import NLL, TRAIN_NLL, Imitation, hold_out
from turnwise.warmstart.settings import Source

SOURCES = {
    Source.demonstrations: from_demonstrations,
    Source.transcripts: from_transcripts,
    Source.self: from_itself,
}


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Teaches a model turns by imitation, from the last checkpoint of the folder when there is one."""

    takes_ranks: ClassVar[bool] = False
    looks_at_steps: ClassVar[bool] = False

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Leaves a model that `model.path` takes, and the figures in metrics.jsonl and summary.json."""
        console = announce(components, run_dir)
        settings = components.warmstart
        out = Path(settings.out).expanduser() if settings.out else run_dir / "model"
        if out.resolve() == Path(components.model.path).expanduser().resolve():
            raise ConfigError(f"warmstart.out={out} is model.path too: the weights would be written over")
        if settings.out:
            with building():
                out.mkdir(parents=True, exist_ok=True)
        lesson = SOURCES[settings.source](components, run_dir, console)
        recipe = settings.recipe
        trackers = ExitStack()  # those that there are: one for what is sampled, then one for what is learnt
        with closing(run_dir, trackers, console):
            examples, held_out = hold_out(lesson.examples(), recipe.eval_fraction)
            if recipe.eval_fraction and not held_out:
                console.print("all trajectories answer one prompt: none is held out to measure what is learnt")
            imitation = Imitation(
                policy=lesson.policy,
                examples=examples,
                held_out=held_out,
                recipe=recipe,
                batch_size=settings.batch_size,
                seed=derive_seed(components.seed, "epochs"),
                checkpoints=run_dir / "checkpoints",
                save_every=settings.save_every,
                keep_checkpoints=components.trainer.keep_checkpoints,
                offset=lesson.num_waves,
            )
            with building():
                first_step = imitation.restore()
                tracker = start_tracker(
                    components,
                    run_dir,
                    console,
                    first_step=lesson.num_waves + first_step,
                    num_steps=lesson.num_waves + imitation.num_steps,
                )
            trackers.callback(tracker.close)
            run_to_end(imitation.run(tracker, first_step))
            lesson.policy.save_pretrained(out)
        _say_what_was_learnt(run_dir, console)
        console.print(
            f"weights in {out}; score them with: mode=evaluate model.path={out}", highlight=False, soft_wrap=True
        )


def _say_what_was_learnt(run_dir: Path, console: Console) -> None:
    lines = [line for line in read_metrics(run_dir) if NLL in line]
    if not lines:
        return
    before, after = lines[0], lines[-1]
    console.print(
        f"negative log-likelihood of a token, in nats: held-out {before[NLL]:.4f} before, {after[NLL]:.4f} after; "
        f"learnt {before[TRAIN_NLL]:.4f} before, {after[TRAIN_NLL]:.4f} after",
        highlight=False,
        soft_wrap=True,
    )
    if (after[NLL] or 0.0) > (before[NLL] or 0.0):
        console.print(
            "warning: the held-out trajectories became less likely: fewer epochs, or a lower learning rate?",
            soft_wrap=True,
        )
