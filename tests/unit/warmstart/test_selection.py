"""What is kept of a group and why the rest is not, and the messages of what is kept."""

import asyncio
import json
from dataclasses import replace

import pytest

from builders import group, trajectory
from scripted import CharRenderer
from turnwise.rollout.episode import Episode, RolloutLimits
from turnwise.types import Completion, FinishReason, Message, ScoredGroup, StopReason, Trajectory
from turnwise.warmstart.selection import Tally, Verdict, judge, kept_examples, transcript_line


def scored(*trajectories: Trajectory, correct: tuple[bool, ...] | None = None) -> ScoredGroup:
    rows = tuple((0.0,) * len(one.turns) for one in trajectories)
    correct_G = tuple(one.answer == "42" for one in trajectories) if correct is None else correct
    return ScoredGroup(group=group(*trajectories), turn_rewards_GK=rows, terms={}, correct_G=correct_G)


def right(sample_index: int, turn_tokens: int = 2) -> Trajectory:
    return trajectory(answer="42", sample_index=sample_index, turn_tokens=turn_tokens)


def test_every_trajectory_meets_the_first_verdict_that_holds():
    sampled = scored(
        right(0),
        trajectory(answer="41", sample_index=1),
        trajectory(sample_index=2, stop_reason=StopReason.max_turns),
        trajectory(answer="42", sample_index=3, errors=["no print", None]),
        trajectory([None], answer="42", sample_index=4),  # right without a tool
        trajectory(sample_index=5, stop_reason=StopReason.tool_infrastructure),
        trajectory([], sample_index=6, stop_reason=StopReason.prompt_too_long),
        right(7),  # token by token the first
        right(8, turn_tokens=3),
        right(9, turn_tokens=4),
        trajectory(answer="41", sample_index=10, errors=["no print", None]),
    )
    assert judge(sampled, keep=2) == [
        Verdict.kept,
        Verdict.wrong,
        Verdict.unfinished,
        Verdict.format_error,
        Verdict.format_error,
        Verdict.excluded,
        Verdict.excluded,
        Verdict.repeated,
        Verdict.kept,
        Verdict.surplus,
        Verdict.wrong,
    ]
    assert [one.sample_index for _, one in kept_examples([sampled], keep=2)] == [0, 8]
    assert [one.sample_index for _, one in kept_examples([sampled], keep=1)] == [0]


def test_a_tally_counts_trajectories_and_problems():
    tally = Tally()
    tally.add([scored(right(0), right(1, 3)), scored(trajectory(answer="41"))], keep=1)
    tally.add([scored(trajectory(answer="41"))], keep=1)
    assert str(tally) == (
        "kept 1 of 4 trajectories, of 1 of 3 problems; others: 0 excluded, 0 unfinished, 2 wrong, 0 format error, "
        "0 repeated, 1 surplus"
    )
    assert tally.figures["warmstart/num_kept"] == 1
    assert tally.figures["warmstart/num_solved"] == 1
    shares = {verdict: tally.figures[f"warmstart/{verdict}"] for verdict in Verdict}
    assert sum(shares.values()) == 1
    assert (shares[Verdict.kept], shares[Verdict.wrong], shares[Verdict.surplus]) == (0.25, 0.5, 0.25)


def played(*turns: str) -> tuple[tuple[Message, ...], Trajectory]:
    """Plays the turns with the echo environment, one token a character."""
    from builders import problem
    from scripted import END, EchoEnvironment

    environment = EchoEnvironment(problem())
    episode = Episode(problem(), 0, environment, CharRenderer(), RolloutLimits(max_turns=5, max_tokens=100))

    async def play() -> None:
        for text in turns:
            ids = (*(ord(c) for c in text), END)
            await episode.advance(
                Completion(token_ids=ids, logprobs=(0.0,) * len(ids), finish_reason=FinishReason.stop, policy_version=0)
            )

    asyncio.run(play())
    return environment.initial_messages(), episode.trajectory()


def test_a_transcript_says_what_was_said():
    opening, one = played("!12", "=12")
    line = transcript_line("p0/0", opening, one, CharRenderer())
    assert line.endswith("}\n")
    assert json.loads(line) == {
        "id": "p0/0",
        "messages": [
            {"role": "user", "content": "What?"},
            {"role": "assistant", "content": "!12"},
            {"role": "tool", "content": "12"},
            {"role": "assistant", "content": "=12"},
        ],
    }


def test_messages_that_do_not_give_the_tokens_are_refused():
    opening, one = played("!12", "=12")
    with pytest.raises(ValueError, match="trajectory p0/0: tokens 0 to 7 are not those of the message before the turn"):
        transcript_line("p0/0", [Message(role="user", content="Who?")], one, CharRenderer())
    first = one.turns[0]
    assert first.tool_result is not None
    other = replace(first, tool_result=replace(first.tool_result, output="13"))
    with pytest.raises(ValueError, match="tokens 11 to 15 are not those"):
        transcript_line("p0/0", opening, replace(one, turns=(other, one.turns[1])), CharRenderer())
