"""The inputs of the comparison put to the test what they should; this needs no peer."""

import pytest
import torch

from equivalence.ragged_step import EQUAL_GROUPS, NUM_PROMPT_TOKENS, OUTSIDE, SEEDS, UNEQUAL_GROUPS, RaggedStep


def test_both_layouts_hold_the_same_tokens():
    step = RaggedStep(spans=[[(0, 2), (3, 4)], [(0, 1)]], rewards=[[0.5, 1.0], [2.0]], group_index=[0, 0], seed=0)
    # Two tokens of padding follow the longest completion; P is the prompt, which only the packed layout holds.
    assert step.turn_BT.tolist() == [[0, 0, -1, 1, -1, -1], [0, -1, -1, -1, -1, -1]]
    assert step.token_rewards_BT.tolist() == [[0, 0.5, 0, 1, 0, 0], [2, 0, 0, 0, 0, 0]]
    advantages_BT = step.on_tokens([[[3.0, 4.0], [5.0]]])
    batch = step.token_batch(advantages_BT)
    prompt = [0] * NUM_PROMPT_TOKENS
    assert batch.loss_mask.int().tolist() == [*prompt, 1, 1, 0, 1, *prompt, 1]
    assert batch.advantages.tolist() == [*prompt, 3, 3, 0, 4, *prompt, 5]
    assert batch.cu_seqlens.tolist() == [0, 7, 11]
    assert (batch.num_loss_tokens, batch.num_loss_turns, batch.num_loss_sequences) == (4, 3, 2)
    [scored] = step.scored_groups()
    assert scored.turn_rewards_GK == ((0.5, 1.0), (2.0,))
    assert [turn.span for turn in scored.group.trajectories[0].turns] == [(3, 5), (6, 7)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("groups", [EQUAL_GROUPS, UNEQUAL_GROUPS], ids=["equal", "unequal"])
@pytest.mark.parametrize(("level", "clip_low", "clip_high"), [("token", 0.2, 0.28), ("sequence", 0.03, 0.04)])
def test_ratios_leave_the_trust_region_on_both_sides_under_advantages_of_both_signs(
    seed: int, groups: tuple[int, ...], level: str, clip_low: float, clip_high: float
):
    step = RaggedStep.random(seed, group_sizes=groups)
    mask_BT, advantages_BT = step.turn_BT >= 0, step.advantages()
    log_ratio_BT = step.logprobs("policy") - step.logprobs("proximal")
    if level == "sequence":
        mean_B = (log_ratio_BT * mask_BT).sum(1) / mask_BT.sum(1)
        log_ratio_BT = mean_B.unsqueeze(1).expand_as(log_ratio_BT)
    ratio = log_ratio_BT[mask_BT].exp()
    is_good = advantages_BT[mask_BT] > 0
    assert ((ratio > 1 + clip_high) & is_good).any()
    assert ((ratio < 1 - clip_low) & ~is_good).any()
    assert ((ratio > 1 - clip_low) & (ratio < 1 + clip_high)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_lengths_are_ragged_and_the_rest_is_spoilt(seed: int):
    step = RaggedStep.random(seed, group_sizes=UNEQUAL_GROUPS)
    assert len({row[-1][1] for row in step.spans}) > 4
    assert len({len(row) for row in step.spans}) > 1
    outside_BT = step.turn_BT < 0
    for values_BT in (step.logprobs("policy"), step.logprobs("proximal"), step.advantages(per_turn=True)):
        assert torch.equal(values_BT == OUTSIDE, outside_BT)
