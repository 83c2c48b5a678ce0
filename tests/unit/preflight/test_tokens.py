"""Token in, token out: a real sampler passes, and each way in which ids could get lost is found."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from builders import problem
from scripted import CharRenderer, EchoPool, ScriptedEngine
from turnwise.preflight.finding import Finding, Verdict
from turnwise.preflight.recording import RecordingEngine
from turnwise.preflight.tokens import check_tokens
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.packing import pack
from turnwise.rollout.sampler import RolloutSampler
from turnwise.seeding import derive_seed
from turnwise.types import Completion, Group, Message, ScoredGroup, Trajectory

SEED = 3
SCRIPTS = (("!12", "=12"), ("=7",))


class Moody(CharRenderer):
    """A renderer whose prompts differ from call to call, as with a template that writes the time of day."""

    def __init__(self) -> None:
        self.num_calls = 0

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        self.num_calls += 1
        return (self.num_calls // 3, *super().prompt_ids(messages))


def scored(group: Group) -> ScoredGroup:
    rows = tuple((0.0,) * len(one.turns) for one in group.trajectories)
    return ScoredGroup(group=group, turn_rewards_GK=rows, terms={"none": rows}, correct_G=(False,) * len(rows))


def sampled(renderer: CharRenderer | None = None) -> tuple[Group, RecordingEngine, CharRenderer]:
    table = {derive_seed(SEED, "p0", g, k): text for g, row in enumerate(SCRIPTS) for k, text in enumerate(row)}
    renderer = renderer or CharRenderer()
    engine = RecordingEngine(ScriptedEngine(table))
    limits = RolloutLimits(max_turns=3, max_tokens=60)
    sampler = RolloutSampler(engine=engine, environments=EchoPool(), renderer=renderer, limits=limits)
    rollout = asyncio.run(sampler.sample([problem()], group_size=2, temperature=1.0, seed=SEED))
    return rollout.groups[0], engine, renderer


def found(group: Group, engine: RecordingEngine, renderer: CharRenderer, **changes: Any) -> Finding:
    one = scored(group)
    batch = replace(pack([one], [one.turn_rewards_GK], temperature=1.0), **changes)
    finding = Finding("tokens")
    prompts = [renderer.prompt_ids(problem().prompt)]
    check_tokens([group], batch, prompts=prompts, calls=engine.calls, seed=SEED, finding=finding)
    return finding


def with_first(group: Group, trajectory: Trajectory) -> Group:
    return replace(group, trajectories=(trajectory, *group.trajectories[1:]))


def test_a_real_sampler_passes_and_is_counted():
    finding = found(*sampled())
    assert finding.verdict is Verdict.passed
    # "!12." and "=12." and "=7.": 4 + 4 + 3; "T12A" between the first two
    assert "11 sampled ids in 3 turns" in finding.lines[-1]
    assert "4 ids of tool output are not" in finding.lines[-1]


def test_a_renderer_that_writes_another_prompt_each_time():
    finding = found(*sampled(Moody()))
    assert finding.verdict is Verdict.failed
    assert "does not begin with its prompt" in finding.lines[0]


def test_a_transcript_that_was_encoded_anew():
    group, engine, renderer = sampled()
    first = group.trajectories[0]
    ids = list(first.token_ids)
    ids[8] += 1
    finding = found(with_first(group, replace(first, token_ids=tuple(ids))), engine, renderer)
    assert finding.verdict is Verdict.failed
    assert (
        "turn 1 has other ids than were sampled: the first at place 1, 49 was sampled and 50 stands" in finding.lines[0]
    )
    assert finding.remedies


def test_a_span_that_is_shifted_onto_tool_output():
    group, engine, renderer = sampled()
    first = group.trajectories[0]
    turns = (first.turns[0], replace(first.turns[1], span=(14, 18)))
    finding = found(with_first(group, replace(first, turns=turns)), engine, renderer)
    assert finding.verdict is Verdict.failed
    assert any("turn 2 has other ids" in line for line in finding.lines)


def test_a_turn_that_is_lost():
    group, engine, renderer = sampled()
    first = group.trajectories[0]
    finding = found(with_first(group, replace(first, turns=first.turns[:1])), engine, renderer)
    assert finding.verdict is Verdict.failed
    assert "the engine sampled 2 turns, it has 1" in finding.lines[0]


def test_log_probs_of_another_token():
    group, engine, renderer = sampled()
    key = derive_seed(SEED, "p0", 1, 0)
    call = engine.calls[key]
    other = Completion(
        token_ids=call.completion.token_ids,
        logprobs=tuple(reversed(call.completion.logprobs)),
        finish_reason=call.completion.finish_reason,
        policy_version=0,
    )
    engine.calls[key] = call._replace(completion=other)
    finding = found(group, engine, renderer)
    assert finding.verdict is Verdict.failed
    assert any("other log-probs" in line for line in finding.lines)


@pytest.mark.parametrize("places", [(11, 12), (0,)])
def test_a_mask_that_reaches_tool_output_or_prompt(places: tuple[int, ...]):
    group, engine, renderer = sampled()
    one = scored(group)
    mask = pack([one], [one.turn_rewards_GK], temperature=1.0).loss_mask.clone()
    mask[list(places)] = True
    finding = found(group, engine, renderer, loss_mask=mask)
    assert finding.verdict is Verdict.failed
    assert "the batch: 11 ids were sampled" in finding.lines[0]
