"""Evaluation with a scripted engine: means, clustering, and what a failure does to them."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from math import sqrt

import pytest

from builders import problem
from scripted import CharRenderer, EchoPool, ScriptedEngine
from turnwise.evaluation.evaluate import EvaluationSettings, evaluate
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.sampler import RolloutSampler
from turnwise.seeding import derive_seed
from turnwise.types import Group, ScoredGroup

PROBLEMS = [replace(problem(id="a"), source="easy"), replace(problem(id="b"), source="hard")]


def exact(group: Group) -> ScoredGroup:
    zeros = tuple((0.0,) * len(t.turns) for t in group.trajectories)
    correct = tuple(t.answer == group.problem.answer for t in group.trajectories)
    terms = {"accuracy": zeros, "format": zeros, "shaping": zeros}
    return ScoredGroup(group=group, turn_rewards_GK=zeros, terms=terms, correct_G=correct)


def run(texts: Mapping[tuple[str, int, int], str | None], num_samples: int):
    seed = derive_seed("evaluation")
    sampler = RolloutSampler(
        engine=ScriptedEngine({derive_seed(seed, *key): text for key, text in texts.items()}),
        environments=EchoPool(),
        renderer=CharRenderer(),
        limits=RolloutLimits(max_turns=2, max_tokens=60),
    )
    return asyncio.run(evaluate(sampler, exact, PROBLEMS, EvaluationSettings(num_samples=num_samples), "toy")).metrics


def test_mean_over_problems_of_the_mean_over_samples():
    texts = {("a", 0, 0): "=42", ("a", 1, 0): "=41", ("b", 0, 0): "=7", ("b", 1, 0): "!1", ("b", 1, 1): "=7"}
    metrics = run(texts, num_samples=2)
    assert metrics["eval/toy/accuracy"] == pytest.approx(0.25)  # (0.5 + 0) / 2
    assert metrics["eval/toy/accuracy/easy"] == 0.5
    assert metrics["eval/toy/accuracy/hard"] == 0.0
    # stdev of (0.5, 0) is 0.5 / sqrt(2); two problems, so not sqrt(4 samples)
    assert metrics["eval/toy/accuracy_stderr"] == pytest.approx(0.5 / sqrt(2) / sqrt(2))
    assert metrics["eval/toy/num_turns"] == pytest.approx(5 / 4)


def test_infrastructure_failures_leave_the_mean():
    metrics = run({("a", 0, 0): "=42", ("b", 0, 0): "#"}, num_samples=1)
    assert metrics["eval/toy/accuracy"] == 1.0
    assert metrics["eval/toy/num_problems"] == 1
    assert metrics["eval/toy/excluded"] == 0.5


def test_nothing_but_failures_is_an_error_and_not_a_zero():
    with pytest.raises(RuntimeError, match="failed on all 2 problems"):
        run({("a", 0, 0): "#", ("b", 0, 0): None}, num_samples=1)


@pytest.mark.parametrize(
    ("field", "value"), [("num_problems", 0), ("num_samples", 0), ("temperature", -0.1), ("top_k", -1), ("top_p", 1.5)]
)
def test_settings_out_of_range(field, value):
    with pytest.raises(ValueError, match=rf"evaluation\.{field}={value}"):
        EvaluationSettings(**{field: value})


def test_greedy_samples_more_than_one_make_no_sense():
    with pytest.raises(ValueError, match="num_samples=2"):
        EvaluationSettings(temperature=0.0, num_samples=2)
