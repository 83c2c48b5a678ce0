"""Waves that are written down as they end, and go on after an interruption as if there had been none."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from scripted import CharRenderer, EchoEnvironment, EchoPool, ScriptedEngine
from turnwise.env.no_tool import NoTool
from turnwise.env.opening import opening_messages
from turnwise.reward.outcome import OutcomeReward
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.sampler import RolloutSampler, RolloutSettings
from turnwise.seeding import derive_seed
from turnwise.task.problem_list import ProblemList
from turnwise.tracker.bundle import bundle_path, read_groups
from turnwise.tracker.files import FilesTracker, read_metrics
from turnwise.types import Message, Problem
from turnwise.warmstart.selection import kept_examples
from turnwise.warmstart.transcripts import read_transcripts
from turnwise.warmstart.waves import TRANSCRIPTS_FILE, Waves, plan_waves
from turnwise.worked_examples import ExampleMessage, ExampleRole


def problems(count: int) -> list[Problem]:
    prompt = (Message(role="user", content="What?"),)
    return [Problem(id=f"p{n}", prompt=prompt, answer=str(n), source="test") for n in range(count)]


def scripts(num_waves: int, num_problems: int) -> dict[int, str | None]:
    """Sample 0 of each problem calls the tool and is right, sample 1 is right without a call, sample 2 is wrong."""
    said = {}
    for wave in range(num_waves):
        seed = derive_seed(7, "warmstart", wave)
        for n in range(num_problems):
            turns = {(0, 0): f"!{n}", (0, 1): f"={n}", (1, 0): f"={n}", (2, 0): "!0", (2, 1): "=none"}
            said |= {derive_seed(seed, f"p{n}", *place): text for place, text in turns.items()}
    return said


def waves(run_dir: Path, count: int = 4, **fields) -> Waves:
    plan = [problems(count)[start : start + 2] for start in range(0, count, 2)]
    settings = RolloutSettings(num_problems=2, group_size=3)
    return Waves(
        **{
            "plan": plan,
            "settings": settings,
            "keep_per_problem": 1,
            "reward": OutcomeReward(),
            "renderer": CharRenderer(),
            "opening": NoTool(),
            "seed": 7,
            "run_dir": run_dir,
            **fields,
        }
    )


def sample(sampled: Waves, turns: dict[int, str | None], environments: EchoPool | None = None) -> None:
    sampler = RolloutSampler(
        engine=ScriptedEngine(turns),
        environments=environments or EchoPool(),
        renderer=CharRenderer(),
        limits=RolloutLimits(max_turns=3, max_tokens=60),
    )
    first = sampled.finished()
    tracker = FilesTracker(sampled.run_dir, first)
    try:
        asyncio.run(sampled.sample(sampler, tracker, first))
    finally:
        tracker.close()


def figures(run_dir: Path) -> list[dict[str, float | None]]:
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))} for line in read_metrics(run_dir)
    ]


def test_what_is_right_is_kept_as_tokens_and_as_messages(tmp_path: Path):
    sampled = waves(tmp_path)
    sample(sampled, scripts(2, 4))
    kept = kept_examples(sampled.groups(2), 1)
    assert [(asked.id, one.sample_index) for asked, one in kept] == [("p0", 0), ("p1", 0), ("p2", 0), ("p3", 0)]
    assert kept[3][1] == read_groups(bundle_path(tmp_path, 1))[1][0].group.trajectories[0]
    said = read_transcripts(tmp_path / TRANSCRIPTS_FILE)
    assert [one.id for one in said] == ["p0/0", "p1/0", "p2/0", "p3/0"]
    assert [message.content for message in said[3].messages] == ["What?", "!3", "3", "=3"]
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]
    last = figures(tmp_path)[-1]
    assert (last["warmstart/num_kept"], last["warmstart/num_solved"]) == (4, 4)
    # of three samples of a problem one is kept, one is right without a call, one is wrong
    assert last["warmstart/kept"] == last["warmstart/format_error"] == last["warmstart/wrong"] == pytest.approx(1 / 3)
    assert str(sampled.tally(2)).startswith("kept 4 of 12 trajectories, of 4 of 4 problems; others: 0 excluded")


def test_an_interrupted_start_goes_on_with_the_wave_that_was_not_finished(tmp_path: Path):
    (whole := tmp_path / "whole").mkdir()
    (parts := tmp_path / "parts").mkdir()
    sample(waves(whole), scripts(2, 4))
    with pytest.raises(KeyError):  # the engine has nothing to say in the second wave
        sample(waves(parts), scripts(1, 4))
    assert waves(parts).finished() == 1
    with (parts / TRANSCRIPTS_FILE).open("a") as file:
        file.write('{"id": "torn')  # as a kill between two writes leaves it
    sample(waves(parts), scripts(2, 4))
    assert figures(parts) == figures(whole)
    assert (parts / TRANSCRIPTS_FILE).read_text() == (whole / TRANSCRIPTS_FILE).read_text()
    assert list(waves(parts).groups(2)) == list(waves(whole).groups(2))


OPENED = NoTool(
    system_prompt="Think.",
    examples=[
        ExampleMessage(role=ExampleRole.user, content="One?"),
        ExampleMessage(role=ExampleRole.assistant, content="=1"),
    ],
    problem_suffix=" Go.",
)


class OpenedPool(EchoPool):
    """Its episodes begin as `OPENED` says."""

    def episode(self, problem: Problem) -> EchoEnvironment:
        asked = opening_messages(OPENED, problem)
        return super().episode(replace(problem, prompt=asked))


def test_the_environment_s_opening_opens_the_transcripts(tmp_path: Path):
    sample(waves(tmp_path, opening=OPENED), scripts(2, 4), OpenedPool())
    said = read_transcripts(tmp_path / TRANSCRIPTS_FILE)
    assert [(message.role, message.content) for message in said[3].messages] == [
        *(("system", "Think."), ("user", "One?"), ("assistant", "=1"), ("user", "What? Go.")),
        *(("assistant", "!3"), ("tool", "3"), ("assistant", "=3")),
    ]


def test_another_opening_than_the_episodes_had_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="are not those of the message before the turn"):
        sample(waves(tmp_path, opening=OPENED), scripts(2, 4))


def test_a_bundle_of_other_problems_is_refused(tmp_path: Path):
    sample(waves(tmp_path), scripts(2, 4))
    other = waves(tmp_path, plan=[problems(4)[2:], problems(4)[:2]])
    with pytest.raises(ValueError, match=r"step_0.jsonl.gz holds other problems than wave 0 has: was the task's file"):
        other.finished()


@pytest.mark.parametrize(
    ("num_train", "num_problems", "sizes"),
    [(10, 6, [4, 2]), (10, 8, [4, 4]), (10, 100, [4, 4, 2]), (4, 100, [4])],
)
def test_no_problem_is_planned_twice(num_train: int, num_problems: int, sizes: list[int]):
    task = ProblemList("list", problems(num_train), [], seed=3)
    plan = plan_waves(task, num_problems, 4)
    assert [len(wave) for wave in plan] == sizes
    ids = [problem.id for wave in plan for problem in wave]
    assert len(set(ids)) == len(ids)
