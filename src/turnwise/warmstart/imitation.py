"""Supervised learning of trajectories: the update of reinforcement learning with advantage 1 and no ratio."""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any

from torch import Tensor

from turnwise import checkpoint
from turnwise.protocols import Policy, Tracker
from turnwise.rollout.packing import pack
from turnwise.types import Group, LossOutput, Problem, ScoredGroup, TokenBatch, Trajectory
from turnwise.warmstart.settings import Recipe

Example = tuple[Problem, Trajectory]
"""A trajectory to imitate, and what it is an answer to."""
NLL = "eval/warmstart/nll"
"""Mean negative log-likelihood of a held-out token, in nats."""
TRAIN_NLL = "eval/warmstart/train_nll"
"""The same of the first trajectories that are learnt, as many as are held out: what is below `NLL` is overfitting."""


def imitation_batch(examples: Iterable[Example]) -> TokenBatch:
    """Packs trajectories for supervised learning: every turn has advantage 1."""
    scored = []
    for problem, trajectory in examples:
        ones = ((1.0,) * len(trajectory.turns),)
        group = Group(problem=problem, trajectories=(trajectory,))
        scored.append(ScoredGroup(group=group, turn_rewards_GK=ones, terms={}, correct_G=(False,)))
    return pack(scored, [one.turn_rewards_GK for one in scored], temperature=1.0)


def imitation_loss(policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput:
    """Mean negative log-likelihood of the tokens of the turns."""
    loss = -(policy_logprobs_N * batch.loss_mask).sum() / max(batch.num_loss_tokens, 1)
    return LossOutput(loss=loss, metrics={"loss/value": float(loss.detach())})


def mean_nll(policy: Policy, examples: Sequence[Example]) -> float:
    """Mean negative log-likelihood of the tokens of the turns, in nats, without learning anything."""
    batch = imitation_batch(examples)
    return -policy.logprobs(batch).double()[batch.loss_mask].sum().item() / batch.num_loss_tokens


def hold_out(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Parts the trajectories into those that are learnt and those that are held out, each in order.

    All trajectories of one prompt are on one side. Of the prompts the share `fraction` is held out, at least one and
    never all, chosen by their text alone; nothing where `fraction` is 0 or there is one prompt only.
    """
    keys = [hashlib.blake2b(repr(problem.prompt).encode(), digest_size=16).digest() for problem, _ in examples]
    ordered = sorted(set(keys))
    wanted = max(1, round(fraction * len(ordered))) if fraction else 0
    held_out = set(ordered[: min(wanted, len(ordered) - 1)])
    pairs = list(zip(keys, examples, strict=True))
    return [one for key, one in pairs if key not in held_out], [one for key, one in pairs if key in held_out]


def epochs(num_examples: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of indices, each epoch in an order of its own, cut into batches whose sizes differ by 1 at most.

    Args:
        num_examples: Indices are below it; every epoch holds each once.
        batch_size: Of the largest batch.
        seed: Of the orders.
    """
    rng = Random(seed)
    num_batches = num_batches_of(num_examples, batch_size)
    edges = [place * num_examples // num_batches for place in range(num_batches + 1)]
    while True:
        order = rng.sample(range(num_examples), num_examples)
        for start, end in pairwise(edges):
            yield order[start:end]


def num_batches_of(num_examples: int, batch_size: int) -> int:
    """Batches of an epoch."""
    return -(-num_examples // batch_size)


class Lessons:
    """What a checkpoint of a warm start must fit, in place of a task's cursor: the trajectories and their order."""

    def __init__(self, examples: Sequence[Example], batch_size: int, seed: int) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for _, trajectory in examples:
            digest.update(repr((trajectory.token_ids, [turn.span for turn in trajectory.turns])).encode())
        self._state = {"seed": seed, "batch_size": batch_size, "trajectories": digest.hexdigest()}

    def state_dict(self) -> dict[str, Any]:
        """The seed, the size of a batch and a digest of the trajectories."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accepts its own state.

        Raises:
            ValueError: The checkpoint was made from other trajectories.
        """
        if dict(state) != self._state:
            raise ValueError(
                f"the checkpoint has learnt other trajectories ({state}) than there are now ({self._state}): was their "
                f"file changed? Start in another folder"
            )


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """Learns trajectories batch by batch. Steps are counted from `offset`, what the run did before."""

    policy: Policy
    examples: Sequence[Example]
    held_out: Sequence[Example]
    recipe: Recipe
    batch_size: int
    seed: int
    checkpoints: Path
    save_every: int
    keep_checkpoints: int
    offset: int = 0

    @property
    def num_steps(self) -> int:
        """Optimiser steps."""
        return self.recipe.length(num_batches_of(len(self.examples), self.batch_size))

    def restore(self) -> int:
        """Goes back to the last checkpoint, if there is one; returns the optimiser steps that it has behind it.

        Raises:
            ValueError: It was made from other trajectories.
        """
        found = checkpoint.latest(self.checkpoints)
        return 0 if found is None else checkpoint.restore(found, self.policy, self._lessons())

    async def run(self, tracker: Tracker, first_step: int) -> None:
        """Runs optimiser steps `first_step` to the last; when it is cancelled, saves what the finished ones gave.

        The held-out trajectories are scored before every epoch and after the last step.
        """
        num_batches = num_batches_of(len(self.examples), self.batch_size)
        batches = islice(epochs(len(self.examples), self.batch_size, self.seed), first_step, self.num_steps)
        next_step = first_step
        try:
            for step, indices in enumerate(batches, start=first_step):
                if step % num_batches == 0:
                    self._evaluate(tracker, step)
                self._learn(tracker, step, [self.examples[i] for i in indices])
                next_step = step + 1
                if next_step % self.save_every == 0:
                    self._save(next_step)
                await asyncio.sleep(0)  # where an interruption arrives
            self._evaluate(tracker, next_step)
            if next_step % self.save_every:
                self._save(next_step)
        except asyncio.CancelledError:
            self._save(next_step)
            raise

    def _learn(self, tracker: Tracker, step: int, examples: Sequence[Example]) -> None:
        started = time.perf_counter()
        learning_rate = self.recipe.learning_rate_at(step, self.num_steps)
        self.policy.set_learning_rate(learning_rate)
        batch = imitation_batch(examples)
        try:
            update = self.policy.update(batch, imitation_loss).metrics
        except FloatingPointError as error:
            path = self.checkpoints.parent / f"failed_batch_step_{self.offset + step}.pt"
            checkpoint.save_batch(batch, path)
            raise FloatingPointError(f"step {self.offset + step}: {error}; its batch is in {path}") from error
        figures = {
            # The turns were not sampled by anything that the policy could disagree with.
            **{name: value for name, value in update.items() if not name.startswith("mismatch/")},
            "loss/num_tokens": batch.num_loss_tokens,
            "loss/num_sequences": batch.num_loss_sequences,
            "update/learning_rate": learning_rate,
            "time/step_s": time.perf_counter() - started,
            "throughput/trained_tokens_per_s": batch.token_ids.numel() / update["time/update_s"],
        }
        tracker.log(figures, self.offset + step)

    def _evaluate(self, tracker: Tracker, step: int) -> None:
        if self.held_out:
            learnt = self.examples[: len(self.held_out)]
            figures = {NLL: mean_nll(self.policy, self.held_out), TRAIN_NLL: mean_nll(self.policy, learnt)}
            tracker.log(figures, self.offset + step)

    def _save(self, next_step: int) -> None:
        checkpoint.save(
            self.checkpoints,
            next_step,
            policy=self.policy,
            task=self._lessons(),
            keep=self.keep_checkpoints,
            every=self.save_every,
        )

    def _lessons(self) -> Lessons:
        return Lessons(self.examples, self.batch_size, self.seed)
