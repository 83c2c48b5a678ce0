"""Evaluations with a scripted engine: every figure by hand, interruptions, and the tool taken away."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest

from builders import problem
from scripted import CharRenderer, EchoPool, ScriptedEngine
from turnwise.evaluation.evaluate import Arm, Evaluator
from turnwise.evaluation.protocol import EvaluationProtocol, problems_digest
from turnwise.evaluation.settings import EvaluationSettings
from turnwise.reward.grading import Grader
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.sampler import RolloutSampler
from turnwise.seeding import derive_seed
from turnwise.tracker.bundle import bundle_path, read_groups
from turnwise.tracker.evaluations import WITHOUT_TOOL, read_record, read_results
from turnwise.types import Group, Problem, ScoredGroup

PROBLEMS = [replace(problem(id="a"), source="easy"), replace(problem(id="b"), source="hard")]
Script = Mapping[tuple[str, int, int], str | None]
"""Problem, sample and turn to what the policy says."""


def exact(group: Group) -> ScoredGroup:
    zeros = tuple((0.0,) * len(t.turns) for t in group.trajectories)
    correct = tuple(t.answer == group.problem.answer for t in group.trajectories)
    terms = {"accuracy": zeros, "format": zeros, "shaping": zeros}
    return ScoredGroup(group=group, turn_rewards_GK=zeros, terms=terms, correct_G=correct)


def arm(script: Script, suffix: str = "") -> tuple[Arm, ScriptedEngine]:
    seed = derive_seed("evaluation")
    engine = ScriptedEngine({derive_seed(seed, *key): text for key, text in script.items()})
    rollouts = RolloutSampler(
        engine=engine,
        environments=EchoPool(),
        renderer=CharRenderer(),
        limits=RolloutLimits(max_turns=2, max_tokens=60),
    )

    def protocol(problems: Sequence[Problem]) -> EvaluationProtocol:
        return EvaluationProtocol(content={"problems": problems_digest(problems), "tool": not suffix})

    return Arm(suffix=suffix, rollouts=rollouts, protocol=protocol), engine


def evaluator(*arms: Arm, run_dir: Path, settings: EvaluationSettings, **fields) -> Evaluator:
    return Evaluator(settings=settings, arms=arms, reward=exact, grader=Grader(), run_dir=run_dir, **fields)


def run(script: Script, run_dir: Path, problems: Sequence[Problem] = PROBLEMS, **settings):
    one = evaluator(arm(script)[0], run_dir=run_dir, settings=EvaluationSettings(**settings))
    return asyncio.run(one({"toy": problems}, 3))


FOUR = {("a", 0, 0): "=42", ("a", 1, 0): "=41", ("b", 0, 0): "=7", ("b", 1, 0): "!1", ("b", 1, 1): "=7"}


def test_mean_over_problems_of_the_mean_over_samples(tmp_path):
    metrics = run(FOUR, tmp_path, num_samples=2).metrics
    assert metrics["eval/toy/accuracy"] == pytest.approx(0.25)  # (0.5 + 0) / 2
    assert metrics["eval/toy/accuracy/easy"] == 0.5
    assert metrics["eval/toy/accuracy/hard"] == 0.0
    # stdev of (0.5, 0) is 0.5 / sqrt(2); two problems, so not sqrt(4 samples)
    assert metrics["eval/toy/accuracy_stderr"] == pytest.approx(0.5 / sqrt(2) / sqrt(2))
    assert metrics["eval/toy/accuracy_low"] < 0.25 < metrics["eval/toy/accuracy_high"]


def test_figures_beside_the_accuracy(tmp_path):
    result = run(FOUR, tmp_path, num_samples=2).results["toy"]
    assert result.shares["pass@2"].value == 0.5  # a of its two samples, b of none
    # a: one vote for 42, one for 41, so half; b: both 7, which is wrong
    assert result.shares["majority@2"].value == pytest.approx(0.25)
    assert result.rates["num_turns"] == pytest.approx(5 / 4)
    assert result.rates["tool_use"] == 0.25
    assert result.rates["tool_errors"] == 0.0
    assert result.rates["answered"] == 1.0
    assert result.rates["truncated"] == 0.0
    # "=42" and its end are 4 tokens, "=7" 3, "!1" 3
    assert result.rates["tokens_per_answer"] == (4 + 4 + 3 + 6) / 4
    assert result.turn_counts == {1: 3, 2: 1}
    assert result.by_turns[1].value == pytest.approx(1 / 3)
    assert result.by_turns[2].value == 0.0


def test_a_trajectory_cut_at_a_limit_is_wrong_and_counted(tmp_path):
    script = {("a", 0, 0): "=42", ("b", 0, 0): "!1", ("b", 0, 1): "!2"}  # b is at its limit of two turns
    result = run(script, tmp_path).results["toy"]
    assert result.rates["truncated"] == 0.5
    assert result.accuracy.value == 0.5
    assert result.rates["answered"] == 0.5


def test_infrastructure_failures_leave_the_mean_and_are_said(tmp_path):
    said = []
    first, _ = arm({("a", 0, 0): "=42", ("b", 0, 0): "#"})
    one = evaluator(first, run_dir=tmp_path, settings=EvaluationSettings(), say=said.append)
    metrics = asyncio.run(one({"toy": PROBLEMS}, 0)).metrics
    assert said == [
        "warning: toy: infrastructure failed in 50.0% of the trajectories, which count neither as right nor as wrong; "
        "1 of 2 problems are left"
    ]
    assert metrics["eval/toy/accuracy"] == 1.0
    assert metrics["eval/toy/num_problems"] == 1
    assert metrics["eval/toy/excluded"] == 0.5


def test_a_k_that_a_failure_makes_too_large_is_of_fewer_problems_and_says_so(tmp_path):
    script = {("a", 0, 0): "=42", ("a", 1, 0): "=41", ("b", 0, 0): "=7", ("b", 1, 0): "#"}
    result = run(script, tmp_path, num_samples=2).results["toy"]
    assert (result.accuracy.num_problems, result.accuracy.value) == (2, 0.25)
    assert (result.shares["pass@2"].num_problems, result.shares["pass@2"].value) == (1, 1.0)


def test_nothing_but_failures_is_an_error_and_not_a_zero(tmp_path):
    with pytest.raises(RuntimeError, match="failed on all 2 problems"):
        run({("a", 0, 0): "#", ("b", 0, 0): None}, tmp_path)


def test_what_is_kept_reads_as_it_was(tmp_path):
    evaluation = run(FOUR, tmp_path, num_samples=2)
    folder = tmp_path / "evaluations" / "toy"
    kept = [scored for scored, _ in read_groups(bundle_path(folder, 3))]
    assert [one.group.problem for one in kept] == PROBLEMS
    assert [one.correct_G for one in kept] == [(True, False), (False, False)]
    assert list(read_results(tmp_path)) == [evaluation.results["toy"]]


def test_the_record_alone_is_kept_where_no_more_is_wanted(tmp_path):
    evaluation = run(FOUR, tmp_path, num_samples=2, save_groups=False)
    assert list(read_results(tmp_path)) == [evaluation.results["toy"]]
    assert [path.name for path in (tmp_path / "evaluations" / "toy").iterdir()] == ["step_3.json"]


MANY = [problem(id=str(index)) for index in range(5)]
ANSWERS = {(str(index), 0, 0): "=42" if index % 2 else "=1" for index in range(5)}


class Interrupted(Exception):
    pass


def test_an_interrupted_evaluation_goes_on_after_its_last_wave(tmp_path):
    settings = EvaluationSettings(wave_size=2)
    first, engine = arm(ANSWERS)
    said = []

    def interrupt(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            raise Interrupted

    one = evaluator(first, run_dir=tmp_path, settings=settings, weights="w", say=interrupt, tells_progress=True)
    with pytest.raises(Interrupted):
        asyncio.run(one({"toy": MANY}, 0))
    assert len(engine.calls) == 4
    assert said == [
        "toy: 5 problems x 1 samples",
        "toy: 2 of 5 problems, 50.0% right so far",
        "toy: 4 of 5 problems, 50.0% right so far",
    ]
    assert not list(read_results(tmp_path))

    second, engine = arm(ANSWERS)
    resumed = asyncio.run(evaluator(second, run_dir=tmp_path, settings=settings, weights="w")({"toy": MANY}, 0))
    assert len(engine.calls) == 1  # the fifth problem alone
    whole = run(ANSWERS, tmp_path / "other", MANY, wave_size=2)
    assert replace(resumed.results["toy"], step=3) == whole.results["toy"]


def test_a_finished_evaluation_is_not_sampled_again(tmp_path):
    settings = EvaluationSettings()
    engines = []
    for _ in range(2):
        again, engine = arm(ANSWERS)
        engines.append(engine)
        result = asyncio.run(evaluator(again, run_dir=tmp_path, settings=settings, weights="w")({"toy": MANY}, 0))
        assert result.results["toy"].accuracy.value == 0.4
    assert [len(engine.calls) for engine in engines] == [5, 0]


@pytest.mark.parametrize(("weights", "problems", "why"), [("v", MANY, "other weights"), ("w", MANY[:4], "protocol")])
def test_what_is_kept_of_something_else_is_not_mixed_in(tmp_path, weights, problems, why):
    settings = EvaluationSettings()
    asyncio.run(evaluator(arm(ANSWERS)[0], run_dir=tmp_path, settings=settings, weights="w")({"toy": MANY}, 0))
    other = evaluator(arm(ANSWERS)[0], run_dir=tmp_path, settings=settings, weights=weights)
    with pytest.raises(ValueError, match=rf"{why}.*name another hydra\.run\.dir"):
        asyncio.run(other({"toy": problems}, 0))


def test_in_training_a_step_is_evaluated_anew(tmp_path):
    assert run(ANSWERS, tmp_path, MANY).results["toy"].accuracy.value == 0.4
    better = dict.fromkeys(ANSWERS, "=42")
    assert run(better, tmp_path, MANY).results["toy"].accuracy.value == 1.0
    assert [result.accuracy.value for result in read_results(tmp_path)] == [1.0]


def test_the_tool_taken_away(tmp_path):
    with_tool, _ = arm({("a", 0, 0): "!1", ("a", 0, 1): "=42", ("b", 0, 0): "=42"})
    without, _ = arm({("a", 0, 0): "=41", ("b", 0, 0): "=42"}, WITHOUT_TOOL)
    settings = EvaluationSettings()
    both = asyncio.run(evaluator(with_tool, without, run_dir=tmp_path, settings=settings)({"toy": PROBLEMS}, 0))
    assert both.results["toy"].accuracy.value == 1.0
    assert both.results["toy_without_tool"].accuracy.value == 0.5
    gain = both.results["toy"].tool_gain
    assert gain is not None
    assert (gain.value, gain.num_problems) == (0.5, 2)
    assert both.metrics["eval/toy/tool_gain"] == 0.5
    assert both.results["toy"].protocol != both.results["toy_without_tool"].protocol
    assert both.results["toy_without_tool"].tool_gain is None


def test_the_gain_is_of_the_problems_that_count_on_both_sides(tmp_path):
    with_tool, _ = arm({("a", 0, 0): "=42", ("b", 0, 0): "#"})
    without, _ = arm({("a", 0, 0): "=41", ("b", 0, 0): "=42"}, WITHOUT_TOOL)
    settings = EvaluationSettings()
    both = asyncio.run(evaluator(with_tool, without, run_dir=tmp_path, settings=settings)({"toy": PROBLEMS}, 0))
    gain = both.results["toy"].tool_gain
    assert gain is not None
    assert (gain.value, gain.num_problems) == (1.0, 1)


def test_second_opinions_and_what_they_disagree_on(tmp_path):
    gold = [replace(problem(id="a"), answer="(1,2)"), replace(problem(id="b"), answer="1/2")]
    script = {("a", 0, 0): "=(1,2)", ("b", 0, 0): "=0.5"}
    one = evaluator(arm(script)[0], run_dir=tmp_path, settings=EvaluationSettings(), second_opinion=True)
    result = asyncio.run(one({"toy": gold}, 3)).results["toy"]
    assert result.rates["accuracy_second"] == result.rates["accuracy_math_verify"] == 1.0
    assert result.rates["disagreement"] == result.rates["unread"] == 0.0
    # the scripted reward compares text, but what is written down is what the grader says, and it agrees
    rows = (tmp_path / "evaluations" / "toy" / "disagreements_step_3.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == []


def test_the_protocol_is_that_of_the_record_and_of_the_figures(tmp_path):
    evaluation = run(FOUR, tmp_path, num_samples=2)
    record = read_record(tmp_path / "evaluations" / "toy", 3)
    digest = EvaluationProtocol(content=record.protocol).digest
    assert evaluation.results["toy"].protocol == digest
    assert f"{int(evaluation.metrics['eval/toy/protocol']):012x}" == digest


def test_problems_differ_in_their_digest_by_anything():
    one = problem(id="a")
    changed = [replace(one, id="b"), replace(one, answer="43"), replace(one, source="x")]
    assert len({problems_digest([other]) for other in [one, *changed]}) == 4
    assert problems_digest(PROBLEMS) != problems_digest(PROBLEMS[::-1])


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_problems", 0), ("num_samples", 0), ("wave_size", 0), ("temperature", -0.1), ("top_k", -1), ("top_p", 1.5)],
)
def test_settings_out_of_range(field, value):
    with pytest.raises(ValueError, match=rf"evaluation\.{field}={value}"):
        EvaluationSettings(**{field: value})


def test_greedy_samples_more_than_one_make_no_sense():
    with pytest.raises(ValueError, match="num_samples=2"):
        EvaluationSettings(temperature=0.0, num_samples=2)


@pytest.mark.parametrize("k", [0, 5])
def test_a_k_beyond_the_samples_is_refused(k):
    with pytest.raises(ValueError, match=rf"{k} is not in 1 to evaluation\.num_samples=4"):
        EvaluationSettings(num_samples=4, ks=[2, k])


@pytest.mark.parametrize(
    ("num_samples", "ks", "chosen"),
    [(1, [], []), (2, [], [2]), (6, [], [2, 4, 6]), (8, [], [2, 4, 8]), (8, [8, 1, 3], [3, 8])],
)
def test_ks_by_default_are_doubled(num_samples, ks, chosen):
    assert EvaluationSettings(num_samples=num_samples, ks=ks).chosen_ks == chosen


def test_the_change_since_the_first_evaluation_is_paired(tmp_path):
    settings = EvaluationSettings()
    before, after = dict(ANSWERS), {**ANSWERS, ("0", 0, 0): "=42", ("2", 0, 0): "=42"}  # 2 of 5 right, then 4
    changes = []
    for step, script in [(0, before), (10, after), (20, after)]:
        evaluation = asyncio.run(evaluator(arm(script)[0], run_dir=tmp_path, settings=settings)({"toy": MANY}, step))
        changes.append(evaluation.results["toy"].change)
    assert changes[0] is None
    assert changes[1] is not None
    assert changes[1].value == pytest.approx(0.4)
    assert changes[1] == changes[2]  # both against the first
    assert evaluation.metrics["eval/toy/change"] == pytest.approx(0.4)


def test_the_change_is_not_against_another_protocol(tmp_path):
    settings = EvaluationSettings()
    asyncio.run(evaluator(arm(ANSWERS)[0], run_dir=tmp_path, settings=settings)({"toy": MANY[:4]}, 0))
    asyncio.run(evaluator(arm(ANSWERS)[0], run_dir=tmp_path, settings=settings)({"toy": MANY}, 30))
    later = asyncio.run(evaluator(arm(ANSWERS)[0], run_dir=tmp_path, settings=settings)({"toy": MANY}, 10))
    assert later.results["toy"].change is None, "step 0 asked other problems, and step 30 comes later"


def test_kept_trajectories_of_another_order_are_refused(tmp_path):
    settings = EvaluationSettings(wave_size=1)
    first = evaluator(arm(ANSWERS)[0], run_dir=tmp_path, settings=settings, weights="w")
    asyncio.run(first({"toy": MANY}, 0))
    bundle = bundle_path(tmp_path / "evaluations" / "toy", 0)
    bundle.write_bytes(bundle.read_bytes() * 2)  # as two processes in one folder would leave it
    again = evaluator(arm(ANSWERS)[0], run_dir=tmp_path, settings=settings, weights="w")
    with pytest.raises(ValueError, match=r"does not hold the first 10 of the set's 5 problems"):
        asyncio.run(again({"toy": MANY}, 0))
