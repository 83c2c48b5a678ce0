"""Packing, written out token by token."""

import dataclasses

import pytest
import torch

from builders import group, trajectory
from turnwise.rollout.packing import has_void_turn, pack, taking_part, with_trainer_logprobs
from turnwise.types import ScoredGroup, StopReason, TokenBatch


def scored(*trajectories) -> ScoredGroup:
    zeros = tuple((0.0,) * len(t.turns) for t in trajectories)
    return ScoredGroup(
        group=group(*trajectories),
        turn_rewards_GK=zeros,
        terms={"accuracy": zeros, "format": zeros, "shaping": zeros},
        correct_G=(False,) * len(trajectories),
    )


def test_three_turns_token_by_token():
    batch = pack([scored(trajectory(["a", "b", None]))], [[[0.5, -1.0, 2.0]]], temperature=0.7)
    # place:              0  1  2 |  3    4  |  5 |  6    7  |  8 |  9   10
    # part:               prompt  |  turn 0  |tool|  turn 1  |tool|  turn 2
    assert batch.token_ids.tolist() == [1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert batch.turn_index.tolist() == [-1, -1, -1, 0, 0, -1, 1, 1, -1, 2, 2]
    assert batch.loss_mask.int().tolist() == [0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1]
    assert batch.advantages.tolist() == [0, 0, 0, 0.5, 0.5, 0, -1, -1, 0, 2, 2]
    expected = [0, 0, 0, -0.5, -0.6, 0, -0.5, -0.6, 0, -0.5, -0.6]
    assert batch.behaviour_logprobs.tolist() == pytest.approx(expected)
    assert batch.sequence_index.tolist() == [0] * 11
    assert batch.cu_seqlens.tolist() == [0, 11]
    assert (batch.num_loss_tokens, batch.num_loss_turns, batch.num_loss_sequences) == (6, 3, 1)
    assert batch.temperature == 0.7


def test_excluded_trajectories_leave_no_trace():
    one = trajectory(["a", None], sample_index=0)
    failed = trajectory(["x"], sample_index=1, stop_reason=StopReason.tool_infrastructure)
    unsampled = trajectory([], sample_index=2, stop_reason=StopReason.prompt_too_long)
    with_excluded = pack([scored(failed, one, unsampled)], [[[0.0], [1.0, 2.0], []]], temperature=1.0)
    without = pack([scored(one)], [[[1.0, 2.0]]], temperature=1.0)
    for field in dataclasses.fields(TokenBatch):
        left, right = getattr(with_excluded, field.name), getattr(without, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name


def test_all_excluded_gives_an_empty_batch():
    failed = trajectory(["x"], stop_reason=StopReason.engine_abort)
    batch = pack([scored(failed)], [[[0.0]]], temperature=1.0)
    assert batch.num_sequences == 0
    assert batch.token_ids.numel() == batch.num_loss_tokens == 0


def test_select_keeps_the_counts_of_the_step():
    batch = pack(
        [scored(trajectory(["a"]), trajectory(["a", None], sample_index=1))], [[[1.0], [2.0, 3.0]]], temperature=1.0
    )
    part = batch.select([1])
    assert part.cu_seqlens.tolist() == [0, 8]
    assert part.sequence_index.tolist() == [0] * 8
    assert part.advantages.tolist() == [0, 0, 0, 2, 2, 0, 3, 3]
    assert part.num_loss_tokens == batch.num_loss_tokens == 6
    both = batch.select([1, 0])
    assert both.cu_seqlens.tolist() == [0, 8, 13]
    assert both.sequence_index.tolist() == [0] * 8 + [1] * 5


def test_advantages_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="1 numbers for 2 turns"):
        pack([scored(trajectory(["a", None]))], [[[1.0]]], temperature=1.0)


@pytest.mark.parametrize(
    ("codes", "errors", "stop_reason", "is_void"),
    [
        (["a", None], None, StopReason.answered, False),  # a call, then the answer
        ([None], None, StopReason.answered, False),  # an answer at once
        (["a", "b"], None, StopReason.max_turns, False),  # cut while it calls
        (["a", None], None, StopReason.void_turn, True),  # neither call nor answer at the end
        (["a", None], None, StopReason.max_tokens, True),  # cut before either was whole
        (["a", "b", None], [None, "unclosed", None], StopReason.answered, True),  # its only call is malformed
    ],
)
def test_void_turns(codes, errors, stop_reason: StopReason, is_void: bool):
    assert has_void_turn(trajectory(codes, errors=errors, stop_reason=stop_reason)) is is_void


def test_trajectories_with_a_void_turn_are_left_out_of_loss_and_counts():
    good = trajectory(["a", None], sample_index=0)
    void = trajectory(["a", "b", None], sample_index=1, stop_reason=StopReason.void_turn)
    advantages = [[[1.0, 2.0], [3.0, 3.0, 3.0]]]
    assert pack([scored(good, void)], advantages, temperature=1.0).num_loss_turns == 5
    masked = pack(
        [scored(good, void)],
        advantages,
        temperature=1.0,
        takes_part=taking_part([scored(good, void)], drop_void_turns=True),
    )
    assert masked.advantages[masked.loss_mask].tolist() == [1, 1, 2, 2]
    assert (masked.num_loss_tokens, masked.num_loss_turns, masked.num_loss_sequences) == (4, 2, 1)


def test_groups_without_a_right_and_a_wrong_answer_are_left_out_of_loss_and_counts():
    one, two = trajectory(["a"], sample_index=0), trajectory([None], sample_index=1)
    failed = trajectory(["x"], sample_index=2, stop_reason=StopReason.tool_infrastructure)
    mixed = dataclasses.replace(scored(one, two, failed), correct_G=(True, False, False))
    alike = dataclasses.replace(scored(one, two, failed), correct_G=(True, True, False))
    assert [mixed.has_equal_outcomes, alike.has_equal_outcomes] == [False, True], "what was excluded has no say"
    advantages = [[[1.0], [2.0], [0.0]], [[3.0], [4.0], [0.0]]]
    batch = pack(
        [mixed, alike], advantages, temperature=1.0, takes_part=taking_part([mixed, alike], drop_equal_outcomes=True)
    )
    assert batch.advantages[batch.loss_mask].tolist() == [1, 1, 2, 2]
    assert (batch.num_loss_tokens, batch.num_loss_turns, batch.num_loss_sequences) == (4, 2, 2)


def test_the_trainers_logprobs_find_their_way_back_to_the_turns_that_were_packed():
    # Prompt 3 tokens, turns of 2, tool output of 1 between them: spans 3-5 and 6-8.
    left_out = trajectory(["a", None], sample_index=0, stop_reason=StopReason.tool_infrastructure)
    one, two = trajectory(["a", None], sample_index=1), trajectory(["b"], sample_index=2)
    groups = [scored(left_out, one), scored(two)]
    takes_part = taking_part(groups)
    batch = pack(groups, [[[0.0, 0.0], [1.0, 2.0]], [[3.0]]], temperature=1.0, takes_part=takes_part)
    places_N = torch.arange(batch.token_ids.numel()).float()  # 8 tokens of the first packed sequence, 5 of the second
    first, second = with_trainer_logprobs(groups, takes_part, -places_N)
    found = [[turn.trainer_logprobs for turn in t.turns] for t in first.group.trajectories + second.group.trajectories]
    assert found == [[None, None], [(-3.0, -4.0), (-6.0, -7.0)], [(-11.0, -12.0)]]
