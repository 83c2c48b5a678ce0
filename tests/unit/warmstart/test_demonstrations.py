"""Demonstrations become the trajectories that the sampler would have recorded."""

import asyncio

from builders import problem
from scripted import END, CharRenderer, EchoPool
from turnwise.rollout.episode import RolloutLimits
from turnwise.types import FinishReason, StopReason
from turnwise.warmstart.demonstrations import as_trajectories, demonstrate_all

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
