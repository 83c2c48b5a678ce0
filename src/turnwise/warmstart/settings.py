"""What a warm start imitates, and how long and how fast it learns it."""

from dataclasses import dataclass
from enum import StrEnum

from turnwise.model.tiny import SMALLEST_VOCABULARY


class Source(StrEnum):
    """Where the turns come from that are imitated."""

    demonstrations = "demonstrations"
    """Scripts that the task writes and the environment answers; a tiny policy is made from nothing and learns them."""
    transcripts = "transcripts"
    """A file of messages, for any model."""
    self = "self"
    """What the model itself gets right when it is sampled, token by token as it was sampled (rejection sampling)."""


class TooLong(StrEnum):
    """What becomes of a transcript that is longer than `warmstart.max_tokens`."""

    error = "error"
    """The run does not start."""
    cut = "cut"
    """It ends where a rollout would end; what lies beyond is not learnt."""
    drop = "drop"
    """Nothing of it is learnt."""


LONGEST_WARMUP = 20
"""Optimiser steps."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast a source is learnt. Without `num_steps` it takes `num_epochs`."""

    learning_rate: float
    eval_fraction: float
    num_epochs: int = 1
    num_steps: int | None = None
    is_from_nothing: bool = False
    """Whether the weights are random at first: then the warm-up has its full length however short the run is."""

    def length(self, num_batches: int) -> int:
        """Optimiser steps, where an epoch has `num_batches`."""
        return self.num_epochs * num_batches if self.num_steps is None else self.num_steps

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """The learning rate of a step: linear from 0 over the warm-up, then linear down to a tenth of its peak.

        The warm-up has `LONGEST_WARMUP` steps, or a tenth of all where that is less.
        """
        warmup = LONGEST_WARMUP if self.is_from_nothing else min(LONGEST_WARMUP, num_steps // 10)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * (1.0 - 0.9 * (step - warmup) / max(num_steps - warmup, 1))


_RECIPES = {
    Source.demonstrations: Recipe(num_steps=2200, learning_rate=3e-3, eval_fraction=0.0, is_from_nothing=True),
    Source.transcripts: Recipe(num_epochs=2, learning_rate=1e-5, eval_fraction=0.1),
    Source.self: Recipe(num_epochs=1, learning_rate=1e-5, eval_fraction=0.1),
}


@dataclass(frozen=True, kw_only=True)
class WarmStartSettings:
    """What is imitated and how; the optimiser's other settings are the trainer's, with one step a batch."""

    source: Source = Source.demonstrations
    """Where the turns come from that are imitated."""
    out: str = ""
    """Folder for the weights; empty means `model` in the run's folder."""
    path: str = ""
    """transcripts: the file, one JSON object a line with `messages` of `role` and `content`, and optionally an `id`."""
    max_tokens: int | None = None
    """transcripts: the longest that is taken; None: as long as a rollout may be, `rollout.max_tokens`."""
    too_long: TooLong = TooLong.error
    """transcripts: what becomes of longer ones; they are counted in any case."""
    num_problems: int = 128
    """self: problems that are sampled, in waves of `rollout.num_problems`, each `rollout.group_size` times."""
    keep_per_problem: int = 4
    """self: correct trajectories of a problem that are imitated, at most."""
    num_demonstrations: int = 12000
    """demonstrations: transcripts played against the real environment."""
    vocab_size: int = 768
    """demonstrations: entries of the tokenizer."""
    batch_size: int = 32
    """Trajectories per optimiser step, at most: an epoch is cut into batches of equal size, up to one."""
    num_epochs: int | None = None
    """Passes over the trajectories; None: 2 over transcripts, 1 over the model's own."""
    num_steps: int | None = None
    """Optimiser steps, in place of `num_epochs`; None: 2200 for demonstrations."""
    learning_rate: float | None = None
    """Peak of the schedule; None: 3e-3 for demonstrations, else 1e-5."""
    eval_fraction: float | None = None
    """Share of the problems whose trajectories are held out to measure what is learnt; None: 0 for demonstrations,
    else 0.1."""
    save_every: int = 100
    """Optimiser steps between checkpoints, from which an interrupted run goes on."""

    def __post_init__(self) -> None:
        for name in ("num_problems", "keep_per_problem", "num_demonstrations", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"warmstart.{name}={getattr(self, name)}: expected >= 1")
        for name in ("max_tokens", "num_epochs", "num_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"warmstart.{name}={value}: expected >= 1")
        if self.num_epochs is not None and self.num_steps is not None:
            raise ValueError(
                f"warmstart.num_epochs={self.num_epochs} and warmstart.num_steps={self.num_steps}: expected one of them"
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise ValueError(f"warmstart.learning_rate={self.learning_rate}: expected in (0, 1)")
        if self.eval_fraction is not None and not 0 <= self.eval_fraction < 1:
            raise ValueError(f"warmstart.eval_fraction={self.eval_fraction}: expected in [0, 1)")
        if not SMALLEST_VOCABULARY < self.vocab_size <= 4096:
            raise ValueError(
                f"warmstart.vocab_size={self.vocab_size}: expected more than {SMALLEST_VOCABULARY}, up to 4096"
            )
        if self.source is Source.demonstrations and self.batch_size > self.num_demonstrations:
            raise ValueError(
                f"warmstart.batch_size={self.batch_size}: expected at most "
                f"warmstart.num_demonstrations={self.num_demonstrations}"
            )

    @property
    def recipe(self) -> Recipe:
        """What is set, and what fits the source where nothing is."""
        fitting = _RECIPES[self.source]
        is_length_set = self.num_epochs is not None or self.num_steps is not None
        return Recipe(
            learning_rate=fitting.learning_rate if self.learning_rate is None else self.learning_rate,
            eval_fraction=fitting.eval_fraction if self.eval_fraction is None else self.eval_fraction,
            num_epochs=self.num_epochs or fitting.num_epochs,
            num_steps=self.num_steps if is_length_set else fitting.num_steps,
            is_from_nothing=fitting.is_from_nothing,
        )
