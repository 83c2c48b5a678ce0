"""Demonstrations become the trajectories that the sampler would have recorded, and a loss by hand."""

import asyncio
from itertools import islice

import pytest
import torch

from builders import problem
from scripted import END, CharRenderer, EchoPool
from turnwise.rollout.episode import RolloutLimits
from turnwise.types import FinishReason, StopReason
from turnwise.warmstart import (
    as_trajectories,
    demonstrate_all,
    epochs,
    imitation_batch,
    imitation_loss,
    learning_rate_scale,
)

LIMITS = RolloutLimits(max_turns=3, max_tokens=60)


class Renderer(CharRenderer):
    def turn_ids(self, text: str) -> tuple[int, ...]:
        return (*(ord(c) for c in text), END)


def says(*turns: str):
    """Says the turns in order, `{}` standing for what the tool replied last."""
    rest = list(turns)
    return lambda output: rest.pop(0).format(output) if rest else None


def demonstrate(*scripts):
    pool = EchoPool()
    played = asyncio.run(demonstrate_all([(problem(), script) for script in scripts], pool))
    assert all(episode.is_closed for episode in pool.episodes)
    return played


def test_a_demonstration_quotes_what_the_environment_really_replied():
    (played,) = demonstrate(says("!12", "={}"))
    assert played.turns == ("!12", "=12")
    assert [reply.stop_reason for reply in played.replies] == [None, StopReason.answered]
    assert played.texts == ["What?", "!12", "=12", "12"]


def test_its_trajectory_is_the_one_that_sampling_would_give():
    (trajectory,) = asyncio.run(as_trajectories(demonstrate(says("!12", "={}")), Renderer(), LIMITS))
    text = "".join("." if i == END else chr(i) for i in trajectory.token_ids)
    assert text == "UWhat?A!12.T12A=12."
    assert [turn.span for turn in trajectory.turns] == [(7, 11), (15, 19)]
    assert trajectory.answer == "12"


def test_what_lies_beyond_the_limits_is_cut():
    long = demonstrate(says("!1", "!2", "!3", "=4"), says("=" + "9" * 100))
    first, second = asyncio.run(as_trajectories(long, Renderer(), LIMITS))
    assert (first.stop_reason, len(first.turns)) == (StopReason.max_turns, 3)
    assert (second.stop_reason, len(second.token_ids)) == (StopReason.max_tokens, 60)
    assert second.turns[0].finish_reason is FinishReason.length


def test_loss_is_the_mean_over_demonstrated_tokens_only():
    (trajectory,) = asyncio.run(as_trajectories(demonstrate(says("=5")), Renderer(), LIMITS))
    batch = imitation_batch([(problem(), trajectory)])
    # "UWhat?A" is the prompt; the three tokens "=5." are learnt.
    assert batch.loss_mask.tolist() == [False] * 7 + [True] * 3
    logprobs = torch.tensor([-9.0] * 7 + [-1.0, -2.0, -6.0], requires_grad=True)
    output = imitation_loss(logprobs, batch)
    assert output.loss.item() == pytest.approx(3.0)  # (1 + 2 + 6) / 3
    output.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0] * 7 + [-1 / 3] * 3)


def test_epochs_visit_everything_once_each_in_an_order_of_their_own():
    batches = list(islice(epochs(6, 2, seed=0), 6))
    first, second = ([i for batch in part for i in batch] for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(6))
    assert first != second
    assert batches == list(islice(epochs(6, 2, seed=0), 6))


def test_learning_rate_rises_over_twenty_steps_and_falls_to_a_tenth():
    assert learning_rate_scale(0, 100) == pytest.approx(1 / 20)
    assert learning_rate_scale(19, 100) == 1.0
    assert learning_rate_scale(60, 100) == pytest.approx(0.55)  # 1 - 0.9 * 40 / 80
    assert learning_rate_scale(100, 100) == pytest.approx(0.1)
