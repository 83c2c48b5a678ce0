"""Gradients of several arms from the same trajectories: goals by hand, real steps, arms that cannot be compared."""

import pytest
import torch

from builders import group, trajectory
from turnwise.config.errors import ConfigError
from turnwise.config.gradients import above_siblings, step_gradients, success, turns
from turnwise.config.sweep import compose_components
from turnwise.types import ScoredGroup

SMALL = (
    "experiment=chain",
    "task.horizon=2",
    "rollout.num_problems=2",
    "rollout.group_size=4",
    "model.num_threads=1",
    "seed=3",
)


def scored(num_turns: tuple[int, ...], correct_G: tuple[bool, ...]) -> ScoredGroup:
    codes = [(*["1 + 1"] * (count - 1), None) if count else () for count in num_turns]
    trajectories = [trajectory(own, sample_index=index) for index, own in enumerate(codes)]
    rows = tuple((0.5,) * count for count in num_turns)
    return ScoredGroup(group=group(*trajectories), turn_rewards_GK=rows, terms={"format": rows}, correct_G=correct_G)


def test_a_goal_counts_above_the_mean_of_the_siblings() -> None:
    one = scored((1, 2, 3), (True, False, False))
    # Success: 1 - (0 + 0) / 2 = 1, and 0 - (1 + 0) / 2 = -0.5 twice.
    assert above_siblings([one], success) == [[[1.0], [-0.5, -0.5], [-0.5, -0.5, -0.5]]]
    # Turns: 1 - (2 + 3) / 2 = -1.5, 2 - (1 + 3) / 2 = 0, 3 - (1 + 2) / 2 = 1.5.
    assert above_siblings([one], turns) == [[[-1.5], [0.0, 0.0], [1.5, 1.5, 1.5]]]


def test_a_trajectory_without_turns_is_no_obstacle() -> None:
    one = scored((2, 0, 1), (True, False, False))
    assert one.group.trajectories[1].is_excluded
    assert above_siblings([one], success) == [[[1.0, 1.0], [], [-1.0]]]
    assert above_siblings([one], turns) == [[[1.0, 1.0], [], [-1.0]]]


def test_arms_differentiate_the_same_trajectories() -> None:
    outcome = ("reward=outcome", "reward.format_penalty=0", "reward.format_rule=additive", "loss.reduction=constant")
    words = {
        "gtpo": ("ablation=gtpo",),
        "rloo": ("advantage=rloo", *outcome),
    }
    arms = {name: compose_components([*SMALL, *own], label=name) for name, own in words.items()}
    done: list[int] = []
    found = step_gradients(arms, 2, done.append)
    assert done == [1, 2]
    assert found.arms["gtpo"].shape == found.goals["turns"].shape
    # RLOO on accuracy alone is what the goal is, however the arm came to it.
    torch.testing.assert_close(found.arms["rloo"], found.goals["success"])
    assert found.goals["success"].any()
    assert not bool((found.arms["gtpo"][0] == found.arms["gtpo"][1]).all())
    assert 0 < found.accuracy < 1
    assert 1 < found.num_turns < 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rollout.temperature=0.5",), "other has rollout.temperature=0.5, first has 1.0: only arms that sample alike"),
        (("loss.kl_weight=0.1",), "other: loss.kl_weight=0.1: expected 0"),
        (("loss.entropy_weight=0.1",), "other: loss.entropy_weight=0.1: expected 0"),
        (("trainer.num_minibatches=4",), "other: trainer.num_minibatches=4: expected 1"),
        (("trainer.num_epochs=2",), "other: trainer.num_epochs=2: expected 1"),
        (("model.num_threads=1",), "other makes the same gradients as first"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(words: tuple[str, ...], message: str) -> None:
    arms = {"first": compose_components(SMALL, "first"), "other": compose_components([*SMALL, *words], "other")}
    with pytest.raises(ConfigError, match=message):
        step_gradients(arms, 3)
    with pytest.raises(ConfigError, match="no arm named"):
        step_gradients({}, 3)
