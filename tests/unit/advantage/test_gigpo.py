from dataclasses import replace
from typing import Any

import pytest
import torch

from turnwise.advantage.gigpo import Anchor, GiGPOAdvantage, anchor_states
from turnwise.advantage.group_norm import GroupNormAdvantage

CENTRED = GiGPOAdvantage(discount=0.5, scale_by_std=False)


def test_episode_and_step_by_hand(scored):
    # Episodes 1, 0, 0: .666667, -.333333, -.333333.  Returns .5, 1; 0, 0; 0, 0.
    # All first turns share the prompt, .5, 0, 0: .333333, -.166667, -.166667.
    # Reply 7 is answered with return 1 and 0: .5, -.5.  Reply 8 met one trajectory: 0.
    group = scored([0, 1], [0, 0], [0, 0], replies=[[7], [7], [8]])
    first, second, third = CENTRED([group])[0]
    assert first == pytest.approx([1, 1.166667], abs=1e-6)
    assert second == pytest.approx([-0.5, -0.833333], abs=1e-6)
    assert third == pytest.approx([-0.5, -0.333333], abs=1e-6)


def test_scaled_by_each_pools_own_std(scored):
    # Episodes 1, 0: 1, -1; first turns .5, 0: 1, -1; reply 7, 1 and 0: 1, -1
    component = GiGPOAdvantage(discount=0.5, eps=0)
    assert component([scored([0, 1], [0, 0], replies=[[7], [7]])]) == [[[2, 2], [-2, -2]]]
    assert replace(component, step_weight=0.5)([scored([0, 1], [0, 0], replies=[[7], [7]])])[0][0] == [1.5, 1.5]


def test_each_visit_counts(scored):
    # Reply 7 is answered twice by the first trajectory, returns .5 and 1, once by the second, 0: mean .5.
    # Episodes: +-.5; first turns .25, 0: +-.125.
    first, second = CENTRED([scored([0, 0, 1], [0, 0], replies=[[7, 7], [7]])])[0]
    assert first == pytest.approx([0.625, 0.5, 1.0])
    assert second == pytest.approx([-0.625, -1.0])


def test_a_state_that_one_trajectory_met_says_nothing_however_often(scored):
    first, second = CENTRED([scored([0, 0, 1], [0, 0], replies=[[7, 7], [8]])])[0]
    assert first == pytest.approx([0.625, 0.5, 0.5])
    assert second == pytest.approx([-0.625, -0.5])


def test_transcript_tells_apart_what_the_same_reply_joins(scored):
    # Third turns answer 9 in both; before it came 7 in one and 8 in the other.
    group = scored([0, 0, 1], [0, 0, 0], replies=[[7, 9], [8, 9]])
    assert anchor_states([group], Anchor.observation).tolist() == [0, 1, 2, 0, 3, 2]
    assert anchor_states([group], Anchor.transcript).tolist() == [0, 1, 2, 0, 3, 4]
    # Third turns return 1 and 0: +-.5 on top of the episode's +-.5, or nothing
    by_observation, by_transcript = (replace(CENTRED, anchor=anchor)([group])[0] for anchor in Anchor)
    assert [row[2] for row in by_observation] == [1, -1]
    assert [row[2] for row in by_transcript] == [0.5, -0.5]


def test_groups_share_no_state_and_excluded_trajectories_have_none(scored):
    groups = [
        scored([0, 0], [0, 0], [], replies=[[7], [7], []], excluded=[0]),
        scored([0, 0], replies=[[7]], id="p1"),
    ]
    for anchor in Anchor:
        assert anchor_states(groups, anchor).tolist() == [0, 1, 2, 3]
    assert anchor_states([], Anchor.observation).shape == (0,)
    assert anchor_states([], Anchor.observation).dtype == torch.int64


def test_without_the_second_term_it_is_grpo(scored):
    group = scored([0, 1], [0, -0.1], [0], replies=[[7], [7], []])
    assert GiGPOAdvantage(step_weight=0)([group]) == GroupNormAdvantage()([group])


def test_one_turn_is_grpo_times_one_and_the_weight(scored):
    group = scored([1], [0], [-0.1])
    expected = [pytest.approx([1.5 * row[0]]) for row in GroupNormAdvantage()([group])[0]]
    assert GiGPOAdvantage(step_weight=0.5)([group])[0] == expected


def test_defaults_are_the_documented_ones():
    assert GiGPOAdvantage() == GiGPOAdvantage(discount=0.95, step_weight=1.0, anchor=Anchor.observation)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"discount": 1.1}, "discount=1.1: expected 0 to 1"),
        ({"step_weight": -1.0}, "step_weight=-1.0: expected at least 0 and finite"),
        ({"anchor": "answer"}, "anchor=answer: expected one of observation, transcript"),
        ({"eps": -0.5}, "eps=-0.5: expected at least 0 and less than 1"),
    ],
)
def test_fields_out_of_range(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        GiGPOAdvantage(**fields)
