"""Arms on benchmarks: means over seeds, pairs of problems, and what cannot be compared; all by hand."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from builders import group, problem, trajectory
from turnwise.evaluation.kept import KeptEvaluation
from turnwise.evaluation.protocol import EvaluationProtocol
from turnwise.evaluation.shares import paired_difference, share
from turnwise.study.benchmark_tables import arm_rows, examples, policy_rows, report
from turnwise.study.benchmarks import START, Answers, ArmOnSet, Policy, compare_arms, read_answers
from turnwise.tracker.evaluations import SetResult
from turnwise.types import ScoredGroup, StopReason


def result(name: str, accuracies: Mapping[str, float], protocol: str = "0" * 12, tool_use: float = 0.5) -> SetResult:
    return SetResult(
        name=name,
        step=0,
        protocol=protocol,
        num_samples=1,
        shares={"accuracy": share(list(accuracies.values()))},
        rates={"tool_use": tool_use, "truncated": 0.25, "tokens_per_answer": 20.0},
    )


def answers(
    arm: str,
    seed: int | None,
    name: str = "words",
    protocol: str = "0" * 12,
    tool_use: float = 0.5,
    **accuracies: float,
) -> Answers:
    policy = Policy(arm=arm, seed=seed, folder=Path(f"{arm}_{seed}"))
    told = result(name, accuracies, protocol, tool_use)
    return Answers(policy=policy, result=told, accuracies=accuracies, num_asked=3)


def by_arm(found: list[ArmOnSet], name: str = "words") -> dict[str, ArmOnSet]:
    return {one.arm: one for one in found if one.name == name}


STUDY = [
    answers(START, None, a=0.0, b=1.0, c=0.0),
    answers("gtpo", 0, a=1.0, b=1.0, c=0.0, tool_use=0.25),
    answers("gtpo", 1, a=1.0, b=0.0, c=0.0, tool_use=1.0),
    answers("grpo", 0, a=0.0, b=1.0, c=1.0),
    answers("grpo", 1, a=0.0, b=1.0, c=1.0),
]


def test_an_arm_is_the_mean_over_its_seeds_of_each_problem():
    found = by_arm(compare_arms(STUDY, "gtpo"))
    assert list(found) == [START, "gtpo", "grpo"]
    assert found["gtpo"].accuracy == share([1.0, 0.5, 0.0])
    assert found["gtpo"].by_seed == pytest.approx({0: 2 / 3, 1: 1 / 3})
    assert found["gtpo"].rates["tool_use"] == 0.625
    assert found["grpo"].rates["tool_use"] == 0.5


def test_change_is_against_the_start_and_ahead_against_the_baseline_problem_by_problem():
    found = by_arm(compare_arms(STUDY, "gtpo"))
    assert found["grpo"].change == paired_difference([0.0, 1.0, 1.0], [0.0, 1.0, 0.0])
    assert found["grpo"].ahead == paired_difference([0.0, 1.0, 1.0], [1.0, 0.5, 0.0])
    assert (found[START].change, found[START].ahead, found["gtpo"].ahead) == (None, None, None)


def test_arms_are_compared_over_the_seeds_that_both_have():
    found = by_arm(compare_arms([*STUDY[:2], *STUDY[3:]], "gtpo"))  # without seed 1 of gtpo
    assert found["grpo"].ahead == paired_difference([0.0, 1.0, 1.0], [1.0, 1.0, 0.0])
    found = by_arm(compare_arms([*STUDY[:2], STUDY[4]], "gtpo"))
    assert found["grpo"].ahead is None


def test_the_gain_by_the_tool_pairs_the_two_ways_to_answer():
    without = [
        answers(START, None, "words_without_tool", a=0.0, b=0.0, c=0.0),
        answers("gtpo", 0, "words_without_tool", a=0.0, b=1.0, c=0.0),
        answers("gtpo", 1, "words_without_tool", a=0.0, b=0.0, c=0.0),
        answers("grpo", 0, "words_without_tool", a=0.0, b=0.0, c=0.0),
        answers("grpo", 1, "words_without_tool", a=0.0, b=0.0, c=0.0),
    ]
    found = compare_arms([*STUDY, *without], "gtpo")
    assert by_arm(found)["gtpo"].tool_gain == paired_difference([1.0, 0.5, 0.0], [0.0, 0.5, 0.0])
    assert by_arm(found, "words_without_tool")["gtpo"].tool_gain is None
    assert by_arm(compare_arms(STUDY, "gtpo"))["gtpo"].tool_gain is None


def test_a_problem_that_failed_for_one_policy_counts_for_none():
    fewer = [*STUDY[:-1], answers("grpo", 1, a=0.0, b=1.0)]
    found = by_arm(compare_arms(fewer, "gtpo"))
    assert [one.accuracy.num_problems for one in found.values()] == [2, 2, 2]
    assert found["gtpo"].accuracy == share([1.0, 0.5])


def test_both_ways_to_answer_are_scored_on_the_same_problems():
    without = [answers(START, None, "words_without_tool", a=0.0, b=1.0)]
    with_tool, alone = compare_arms([STUDY[0], *without], "gtpo")
    assert with_tool.accuracy == share([0.0, 1.0])
    assert alone.accuracy == share([0.0, 1.0])
    assert with_tool.tool_gain == paired_difference([0.0, 1.0], [0.0, 1.0])


def test_ways_to_answer_of_different_policies_make_no_pair():
    found = compare_arms([STUDY[0], STUDY[1], answers(START, None, "words_without_tool", a=0.0, b=1.0)], "gtpo")
    assert [one.tool_gain for one in found] == [None, None, None]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"words: gtpo_0 has protocol 0{12}, gtpo_1 has f{12}"):
        compare_arms([answers("gtpo", 0, a=1.0), answers("gtpo", 1, protocol="f" * 12, a=1.0)], "gtpo")
    with pytest.raises(ValueError, match="words: no problem counts for every policy"):
        compare_arms([answers("gtpo", 0, a=1.0), answers("gtpo", 1, b=1.0)], "gtpo")


def test_the_table_says_who_was_measured_and_by_how_much():
    header, start, gtpo, grpo = arm_rows(compare_arms(STUDY, "gtpo"), "gtpo")
    assert header[5] == "ahead of gtpo"
    assert start[:2] == ["words", "start"]
    assert start[3:7] == ["–"] * 4
    assert gtpo[3] == "0: 66.7, 1: 33.3"
    assert gtpo[7] == "62%"
    assert gtpo[4].startswith("+16.7 [")
    assert grpo[5].startswith("+16.7 [")
    assert grpo[7:] == ["50%", "25%", "20"]


def test_without_the_tool_nothing_is_said_of_its_use():
    (_, row) = arm_rows(compare_arms([answers(START, None, "words_without_tool", a=1.0)], "gtpo"), "gtpo")
    assert row[0] == "words, no tool"
    assert row[6:8] == ["–", "–"]


def test_the_report_says_what_is_missing_and_how_many_problems_count():
    found = compare_arms([*STUDY[:-1], answers("grpo", 1, a=0.0, b=1.0)], "gtpo")
    counted = {one.name: one.accuracy.num_problems for one in found}
    told = report(arm_rows(found, "gtpo"), STUDY, counted, ["gtpo seed 2 is missing"], "make benchmarks")
    assert "- words: 2 problems x 1 samples, of 3: infrastructure failed on the others for some policy" in told
    assert "- gtpo seed 2 is missing" in told
    assert "    make benchmarks\n" in told
    assert "of 3" not in report([["set"]], STUDY, {"words": 3}, [], "")


def test_every_policy_has_a_line_for_programs():
    header, *lines = policy_rows(STUDY)
    assert header[:4] == ["set", "arm", "seed", "accuracy"]
    assert [line[1:3] for line in lines] == [["start", ""], ["gtpo", "0"], ["gtpo", "1"], ["grpo", "0"], ["grpo", "1"]]
    assert all(len(line) == len(header) for line in lines)


def leave(policy: Policy, is_correct: bool, stop_reason: StopReason = StopReason.answered) -> None:
    """What an evaluation of one problem leaves."""
    sampled = trajectory(answer="42" if is_correct else "41", stop_reason=stop_reason)
    first, last = sampled.turns
    one = group(replace(sampled, turns=(replace(first, text="`````\nprint(1)\n`````"), last)))
    scored = ScoredGroup(group=one, turn_rewards_GK=((0.0, 0.0),), terms={}, correct_G=(is_correct,))
    protocol = EvaluationProtocol(content={"set": "words"})
    folder = policy.folder / "evaluations" / "words"
    kept = KeptEvaluation(folder, 0, protocol, "w", problems=[problem()], keeps_groups=True)
    kept.append([scored])
    kept.finish(result("words", {"p0": float(is_correct)}, protocol.digest))


def test_what_an_evaluation_left_is_read_and_shown(tmp_path: Path):
    policies = [Policy(arm=START, seed=None, folder=tmp_path / "start")]
    policies += [Policy(arm="gtpo", seed=seed, folder=tmp_path / f"gtpo{seed}") for seed in (0, 1)]
    for policy in policies:
        leave(policy, is_correct=policy.seed == 0)
    read = [one for policy in policies for one in read_answers(policy)]
    assert [one.accuracies for one in read] == [{"p0": 0.0}, {"p0": 1.0}, {"p0": 0.0}]
    text = examples(policies, per_set=3)
    assert "**start**, wrong" in text
    assert "**gtpo seed 0**, right" in text
    assert "seed 1" not in text
    assert "Gold answer:\n\n```\n42\n```\n" in text
    assert "\n``````\n" in text  # what was sampled holds a fence of five


def test_a_failure_of_the_sandbox_is_not_shown_as_a_wrong_answer(tmp_path: Path):
    policy = Policy(arm=START, seed=None, folder=tmp_path)
    leave(policy, is_correct=False, stop_reason=StopReason.tool_infrastructure)
    assert "**start**, not counted (tool_infrastructure)" in examples([policy], per_set=1)
    (read,) = read_answers(policy)
    assert (read.accuracies, read.num_asked) == ({}, 1)


def test_the_lowest_seed_of_an_arm_is_shown_whatever_the_order(tmp_path: Path):
    policies = [Policy(arm="gtpo", seed=seed, folder=tmp_path / str(seed)) for seed in (3, 1)]
    policies.append(Policy(arm=START, seed=None, folder=tmp_path / "start"))
    for policy in policies:
        leave(policy, is_correct=True)
    text = examples(policies, per_set=1)
    assert text.index("**start**") < text.index("**gtpo seed 1**")
    assert "seed 3" not in text


def test_a_folder_without_an_evaluation_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no finished evaluation"):
        read_answers(Policy(arm="gtpo", seed=0, folder=tmp_path))
