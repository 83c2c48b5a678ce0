import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import group, trajectory
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.reward.outcome import OutcomeReward
from turnwise.reward.turn_level import TurnLevelReward
from turnwise.rollout.rescoring import Changes, compare, joined, rescore, rescore_step
from turnwise.tracker.bundle import bundle_path, read_groups, write_groups
from turnwise.types import ScoredGroup, StopReason


def two_turns(answer: str, sample: int, stop: StopReason = StopReason.answered):
    return trajectory(("print(1)", None), answer=answer, sample_index=sample, stop_reason=stop)


GROUP = group(
    two_turns("42", 0), two_turns("7", 1), two_turns("42", 2, StopReason.tool_infrastructure), id="p0", answer="42"
)


def scored(correct: tuple[bool, ...] = (True, False, False)) -> ScoredGroup:
    rewards = tuple((0.0, float(right)) for right in correct)
    return ScoredGroup(group=GROUP, turn_rewards_GK=rewards, terms={"accuracy": rewards}, correct_G=correct)


def test_the_same_reward_and_estimator_change_nothing():
    stored = [scored()]
    estimator = TurnReturnAdvantage()
    rescored = rescore(stored, TurnLevelReward(), estimator)
    figures = compare(stored, estimator(stored), rescored).figures()
    assert figures.pop("rescore/rank_correlation") == 1
    assert set(figures.values()) == {0.0}
    # R = 0.9, 1 of the right one, 0, 0 of the wrong one; the excluded one has none
    assert rescored.returns == [[[0.9, 1.0], [0.0, 0.0], [0.0, 0.0]]]


def test_changes_by_hand():
    # Stored advantages of the four turns that count: 1, -1, 0, 2; GRPO on rewards 1 and 0 gives 1, 1, -1, -1.
    stored_advantages = [[[1.0, -1.0], [0.0, 2.0], [5.0, 5.0]]]
    rescored = rescore([scored()], OutcomeReward(), GroupNormAdvantage(eps=0.0))
    assert rescored.advantages == [[[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]]]
    figures = compare([scored((True, True, False))], stored_advantages, rescored).figures()
    assert figures == {
        "rescore/sign_flips": 0.5,  # -1 to 1 and 2 to -1, of four
        "rescore/sign_flips_turn_1": 0.0,
        "rescore/sign_flips_turn_2": 1.0,
        "rescore/from_zero": 0.25,  # the third
        "rescore/to_zero": 0.0,
        "rescore/abs_change": 1.5,  # 0 + 2 + 1 + 3, over four
        "rescore/abs_change_turn_1": 0.5,  # (0 + 1) / 2
        "rescore/abs_change_turn_2": 2.5,  # (2 + 3) / 2
        # ranks of 1, -1, 0, 2: 3, 1, 2, 4; of 1, 1, -1, -1: 3.5, 3.5, 1.5, 1.5. Centred: .5 -1.5 -.5 1.5 and 1 1 -1 -1;
        # product .5 - 1.5 + .5 - 1.5 = -2, lengths sqrt(5) and 2
        "rescore/rank_correlation": pytest.approx(-2 / math.sqrt(20)),
        "rescore/zero_groups_stored": 0.0,
        "rescore/zero_groups": 0.0,
        "rescore/regraded": 0.5,  # the second trajectory was stored as right; the excluded one does not count
    }


def test_groups_that_lose_their_signal_are_counted():
    stored = [scored(), replace(scored((False, False, False)), group=wrong())]
    advantages = [[[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]], [[0.5, 0.5], [-0.5, -0.5], [0.0, 0.0]]]
    rescored = rescore(stored, OutcomeReward(), GroupNormAdvantage())
    figures = compare(stored, advantages, rescored).figures()
    assert (figures["rescore/zero_groups_stored"], figures["rescore/zero_groups"]) == (0.0, 0.5)
    assert figures["rescore/to_zero"] == 0.5


def wrong():
    return group(*(replace(one, answer="7") for one in GROUP.trajectories))


def test_steps_are_joined_turn_by_turn():
    one = Changes(
        stored_K=torch.tensor([1.0, 2.0]),
        rescored_K=torch.tensor([-1.0, 2.0]),
        turn_index_K=torch.tensor([0, 1]),
        had_signal_S=torch.tensor([True]),
        has_signal_S=torch.tensor([True]),
        is_regraded_G=torch.tensor([False]),
    )
    other = replace(one, rescored_K=torch.tensor([1.0, 2.0]), is_regraded_G=torch.tensor([True]))
    figures = joined([one, other]).figures()
    assert figures["rescore/sign_flips"] == 0.25
    assert figures["rescore/sign_flips_turn_1"] == 0.5
    assert figures["rescore/regraded"] == 0.5


def test_a_step_is_read_compared_and_written(tmp_path: Path):
    source, out = tmp_path / "source", tmp_path / "out"
    for folder in (source, out):
        (folder / "groups").mkdir(parents=True)
    zeros = [[[0.0, 0.0]] * 3]
    write_groups(bundle_path(source, 4), [scored()], zeros, zeros)
    estimator = GroupNormAdvantage(eps=0.0)
    step = rescore_step(4, source=source, reward=TurnLevelReward(), estimator=estimator, out=out)
    assert step.figures["rescore/from_zero"] == 1.0
    assert step.figures["advantage/turn_1"] == 0.0, "the diagnostics stand beside"
    ((written, advantages),) = read_groups(bundle_path(out, 4))
    assert written.terms.keys() == {"accuracy", "shaping", "format"}
    assert advantages == [[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]]
    assert read_groups(bundle_path(source, 4))[0][1] == zeros[0], "the source is left alone"


def test_a_step_without_an_included_trajectory_has_figures_of_nothing():
    lost = group(two_turns("42", 0, StopReason.tool_infrastructure))
    stored = [ScoredGroup(group=lost, turn_rewards_GK=((0.0, 0.0),), terms={}, correct_G=(False,))]
    rescored = rescore(stored, TurnLevelReward(), TurnReturnAdvantage())
    figures = compare(stored, [[[0.0, 0.0]]], rescored).figures()
    assert math.isnan(figures.pop("rescore/rank_correlation"))
    assert set(figures.values()) == {0.0}
