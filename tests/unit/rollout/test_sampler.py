"""The sampler with a scripted engine: transcripts token by token, and every stop reason."""

import asyncio
import time
from dataclasses import replace

import pytest

from builders import problem
from scripted import CharRenderer, EchoEnvironment, EchoPool, ScriptedEngine
from turnwise.env.python_tool import PythonTool
from turnwise.env.sandbox.local import LocalSandbox
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.sampler import RolloutSampler, RolloutSettings
from turnwise.seeding import derive_seed
from turnwise.types import FinishReason, Group, Problem, StepResult, StopReason

SEED = 7


def sample(
    *scripts: list[str | None], max_turns: int = 3, max_tokens: int = 60
) -> tuple[Group, ScriptedEngine, EchoPool]:
    """One group of problem p0 whose sample g says `scripts[g][k]` in turn k."""
    table = {derive_seed(SEED, "p0", g, k): text for g, script in enumerate(scripts) for k, text in enumerate(script)}
    engine, pool = ScriptedEngine(table), EchoPool()
    sampler = RolloutSampler(
        engine=engine,
        environments=pool,
        renderer=CharRenderer(),
        limits=RolloutLimits(max_turns=max_turns, max_tokens=max_tokens),
    )
    rollout = asyncio.run(sampler.sample([problem()], group_size=len(scripts), temperature=1.0, seed=SEED))
    return rollout.groups[0], engine, pool


def ids(text: str) -> tuple[int, ...]:
    """`.` stands for the stop token."""
    return tuple(0 if c == "." else ord(c) for c in text)


def test_transcript_grows_by_appending_and_spans_hold_the_sampled_tokens():
    group, engine, _ = sample(["!12", "=12"])
    (trajectory,) = group.trajectories
    # prompt "UWhat?A", turn "!12.", tool "T12A", turn "=12."
    assert trajectory.token_ids == ids("UWhat?A!12.T12A=12.")
    assert [turn.span for turn in trajectory.turns] == [(7, 11), (15, 19)]
    assert [turn.text for turn in trajectory.turns] == ["!12", "=12"]
    assert trajectory.turns[0].behaviour_logprobs == (-0.01, -0.02, -0.03, -0.04)
    assert trajectory.stop_reason is StopReason.answered
    assert trajectory.answer == "12"
    assert engine.calls[1][0] == ids("UWhat?A!12.T12A"), "turn 2 continues the very tokens of turn 1"


def test_samples_of_a_group_go_their_own_ways():
    group, _, pool = sample(["=1"], ["!5", "!6", "=2"], ["hm"])
    assert [t.answer for t in group.trajectories] == ["1", "2", None]
    assert [len(t.turns) for t in group.trajectories] == [1, 3, 1]
    assert [t.stop_reason for t in group.trajectories] == ["answered", "answered", "void_turn"]
    assert [t.sample_index for t in group.trajectories] == [0, 1, 2]
    assert all(episode.is_closed for episode in pool.episodes)


def test_max_turns():
    group, *_ = sample(["!1", "!2"], max_turns=2)
    assert group.trajectories[0].stop_reason is StopReason.max_turns
    assert len(group.trajectories[0].turns) == 2
    assert group.trajectories[0].token_ids == ids("UWhat?A!1.T1A!2.")


def test_turn_cut_by_the_token_limit_is_kept_and_calls_no_tool():
    # The prompt has 7 tokens; 10 leave 3 for the turn "!12." of 4.
    group, *_ = sample(["!12"], max_tokens=10)
    (trajectory,) = group.trajectories
    assert trajectory.stop_reason is StopReason.max_tokens
    assert trajectory.token_ids == ids("UWhat?A!12")
    assert trajectory.turns[0].finish_reason is FinishReason.length
    assert trajectory.turns[0].tool_result is None


def test_tool_output_that_leaves_no_room_ends_the_trajectory_without_it():
    # 7 + 4 sampled + 4 of tool output = 15 tokens: at a limit of 15 nothing could be sampled any more.
    group, *_ = sample(["!12"], max_tokens=15)
    (trajectory,) = group.trajectories
    assert trajectory.stop_reason is StopReason.max_tokens
    assert trajectory.token_ids == ids("UWhat?A!12.")
    assert sample(["!12", "="], max_tokens=17)[0].trajectories[0].stop_reason is StopReason.answered


def test_prompt_too_long_samples_nothing():
    group, engine, pool = sample([], max_tokens=7)
    assert group.trajectories[0].stop_reason is StopReason.prompt_too_long
    assert group.trajectories[0].is_excluded
    assert engine.calls == []
    assert pool.episodes[0].is_closed


def test_infrastructure_failure_ends_and_excludes():
    group, *_ = sample(["!1", "#"], ["=1"])
    assert group.trajectories[0].stop_reason is StopReason.tool_infrastructure
    assert [t.is_excluded for t in group.trajectories] == [True, False]


def test_engine_abort_ends_and_excludes():
    group, *_ = sample([None], ["!1", None])
    assert [t.stop_reason for t in group.trajectories] == ["engine_abort", "engine_abort"]
    assert [len(t.turns) for t in group.trajectories] == [0, 1]
    assert all(t.is_excluded for t in group.trajectories)


def test_every_stop_reason_is_covered_here():
    source = __import__("pathlib").Path(__file__).read_text()
    assert [r for r in StopReason if f"StopReason.{r}" not in source and f'"{r}"' not in source] == []


def test_token_budget_of_a_turn_is_what_the_trajectory_has_left():
    _, engine, _ = sample(["!12", "=12"], max_tokens=60)
    assert [sampling.max_new_tokens for _, sampling in engine.calls] == [60 - 7, 60 - 15]


def test_truncation_is_passed_on_to_the_engine():
    engine = ScriptedEngine({derive_seed(SEED, "p0", 0, 0): "=1"})
    sampler = RolloutSampler(
        engine=engine,
        environments=EchoPool(),
        renderer=CharRenderer(),
        limits=RolloutLimits(max_turns=2, max_tokens=50),
    )
    asyncio.run(sampler.sample([problem()], group_size=1, temperature=0.5, seed=SEED, top_k=7, top_p=0.25))
    ((_, sampling),) = engine.calls
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 7, 0.25)


def test_every_session_is_open_before_any_is_asked_and_closed_when_its_episode_ends():
    class WatchedEngine(ScriptedEngine):
        def turn(self, token_ids, sampling):
            self.seen = [session.is_closed for session in self.sessions]
            self.ended = [episode.is_closed for episode in pool.episodes]
            return super().turn(token_ids, sampling)

    pool = EchoPool()
    # Sample 0 answers at once, sample 1 in its second turn.
    engine = WatchedEngine({derive_seed(SEED, "p0", g, k): t for g, k, t in ((0, 0, "=1"), (1, 0, "!2"), (1, 1, "=2"))})
    sampler = RolloutSampler(
        engine=engine,
        environments=pool,
        renderer=CharRenderer(),
        limits=RolloutLimits(max_turns=2, max_tokens=50),
    )
    asyncio.run(sampler.sample([problem()], group_size=2, temperature=1.0, seed=SEED))
    assert engine.seen == [True, False]
    assert engine.ended == [True, False], "what a tool holds for an episode ends with it, not with the step"
    assert [session.is_closed for session in engine.sessions] == [True, True]


class SleepyEnvironment(EchoEnvironment):
    """A tool that takes as many hundredths of a second as its call says; `-` breaks the environment."""

    async def step(self, turn_text: str) -> StepResult:
        if turn_text.startswith("-"):
            raise ZeroDivisionError
        if turn_text.startswith("!"):
            await asyncio.sleep(int(turn_text[1:]) / 100)
        return await super().step(turn_text)


class SleepyPool(EchoPool):
    isolation = None

    def episode(self, problem: Problem) -> EchoEnvironment:
        self.episodes.append(SleepyEnvironment(problem))
        return self.episodes[-1]


def sleepy(*scripts: list[str]) -> tuple[RolloutSampler, ScriptedEngine, EchoPool]:
    table = {derive_seed(SEED, "p0", g, k): text for g, script in enumerate(scripts) for k, text in enumerate(script)}
    engine, pool = ScriptedEngine(table), SleepyPool()
    limits = RolloutLimits(max_turns=3, max_tokens=60)
    return (
        RolloutSampler(engine=engine, environments=pool, renderer=CharRenderer(), limits=limits),
        engine,
        pool,
    )


def test_an_episode_goes_on_while_the_tool_of_another_runs():
    sampler, engine, _ = sleepy(["!30", "=1"], ["!0", "!1", "=2"])
    rollout = asyncio.run(sampler.sample([problem()], group_size=2, temperature=1.0, seed=SEED))
    turns = {derive_seed(SEED, "p0", g, k): (g, k) for g in range(2) for k in range(3)}
    assert [turns[sampling.seed] for _, sampling in engine.calls] == [(0, 0), (1, 0), (1, 1), (1, 2), (0, 1)]
    assert 0.3 <= rollout.tool_s <= rollout.wall_s < 0.6  # 0.3 s and 0.01 s side by side


def test_tool_seconds_do_not_count_twice_what_runs_side_by_side():
    sampler, *_ = sleepy(*([["!10", "=1"]] * 8))
    rollout = asyncio.run(sampler.sample([problem()], group_size=8, temperature=1.0, seed=SEED))
    assert 0.1 <= rollout.tool_s < 0.4  # eight times 0.1 s, all at once


def test_a_failing_episode_ends_the_others_and_everything_is_closed():
    sampler, engine, pool = sleepy(["!500", "=1"], ["-"])
    started = time.perf_counter()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(sampler.sample([problem()], group_size=2, temperature=1.0, seed=SEED))
    assert time.perf_counter() - started < 2
    assert [session.is_closed for session in engine.sessions] == [True, True]
    assert [episode.is_closed for episode in pool.episodes] == [True, True]


def test_who_cancels_the_sampler_leaves_nothing_open():
    async def cancel() -> None:
        sampler, engine, pool = sleepy(["!500", "=1"])
        task = asyncio.create_task(sampler.sample([problem()], group_size=1, temperature=1.0, seed=SEED))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.sessions[0].is_closed
        assert pool.episodes[0].is_closed

    asyncio.run(cancel())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("group_size", 0),
        ("num_problems", -1),
        ("max_turns", 0),
        ("max_tokens", 0),
        ("temperature", 0.0),
        ("top_k", -1),
        ("top_p", 0.0),
    ],
)
def test_settings_out_of_range_name_the_key_and_the_value(field, value):
    with pytest.raises(ValueError, match=rf"rollout\.{field}={value}"):
        RolloutSettings(**{field: value})


def test_the_verdict_of_a_problem_s_tests_is_kept():
    tested = replace(problem(), tests="assert twice(2) == 4", entry_point="twice")
    programs = ("def twice(x): return 2 * x", "def twice(x): return x")
    turns = {
        derive_seed(SEED, "p0", g, 0): f"```python\n{program}\n```\n\\boxed{{done}}"
        for g, program in enumerate(programs)
    }

    async def run() -> Group:
        pool = PythonTool(sandbox=LocalSandbox()).start()
        try:
            sampler = RolloutSampler(
                engine=ScriptedEngine({**turns, derive_seed(SEED, "p0", 2, 0): "words"}),
                environments=pool,
                renderer=CharRenderer(),
                limits=RolloutLimits(max_turns=2, max_tokens=100),
            )
            rollout = await sampler.sample([tested], group_size=3, temperature=1.0, seed=SEED)
            return rollout.groups[0]
        finally:
            await pool.close()

    trajectories = asyncio.run(run()).trajectories
    assert [(t.answer, t.passed) for t in trajectories] == [(programs[0], True), (programs[1], False), (None, None)]
