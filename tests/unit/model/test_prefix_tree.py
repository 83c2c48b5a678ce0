import pytest
import torch

from tiny_models import token_batch
from turnwise.model.prefix_tree import Segment, deal, micro_batches, plant

# Two siblings with a prompt of three tokens around a sequence with one of its own.
BATCH = token_batch(
    [
        ((20, 21, 22, 23, 24), (0, 0, 0, 1, 1)),
        ((40, 41), (0, 1)),
        ((20, 21, 22, 25), (0, 0, 0, 1)),
        ((60, 61), (0, 0)),
    ]
)


def test_a_shared_prompt_stands_once_before_its_continuations() -> None:
    tree = plant(BATCH)
    assert tree.token_ids_M.tolist() == [20, 21, 22, 23, 24, 25, 40, 41]
    assert tree.position_ids_M.tolist() == [0, 1, 2, 3, 4, 3, 0, 1]
    assert tree.segments == (
        Segment(length=3, prefix=None),
        Segment(length=2, prefix=0),
        Segment(length=1, prefix=0),
        Segment(length=2, prefix=None),
    )
    # Before the loss tokens 23, 24, 41, 25 stand 22, 23, 40 and once more 22.
    assert tree.token_ids_M[tree.predictors_L].tolist() == [22, 23, 40, 22]


def test_a_continuation_attends_to_its_prompt_and_itself() -> None:
    tree = plant(BATCH)
    assert tree.starts == [0, 3, 5, 6]
    assert tree.key_lengths == [3, 5, 4, 2]
    assert tree.key_places is not None
    assert tree.key_places.tolist() == [0, 1, 2, *(0, 1, 2, 3, 4), *(0, 1, 2, 5), *(6, 7)]
    first, branch, other, alone = tree.masks
    assert first is None
    assert alone is None
    assert branch is not None
    assert other is not None
    assert branch.int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert other.int().tolist() == [[1, 1, 1, 1]]


def test_prompts_that_differ_in_a_token_or_in_length_are_not_shared() -> None:
    batch = token_batch([((1, 2, 3), (0, 0, 1)), ((1, 9, 3), (0, 0, 1)), ((1, 2, 3), (0, 1, 1))])
    assert [segment.prefix for segment in plant(batch).segments] == [None, None, None]


def test_micro_batches_keep_families_together_and_within_the_budget() -> None:
    # The tree of the two siblings has 3 + 2 + 1 tokens, with the third sequence 8; the last has nothing to train.
    assert micro_batches(BATCH, 8) == [[0, 2, 1]]
    assert micro_batches(BATCH, 7) == [[0, 2], [1]]
    # Alone the second sibling brings its prompt: 4 tokens; with the third sequence 6.
    assert micro_batches(BATCH, 5) == [[0], [2], [1]]
    assert micro_batches(BATCH, 1) == [[0], [2], [1]]
    large = token_batch([((1, 2, 3, 4), (0, 0, 0, 1))] * 5)
    assert micro_batches(large, 5) == [[0, 1], [2, 3], [4]]  # 4 + 1 tokens each


def test_a_family_that_fits_into_a_tree_is_not_cut() -> None:
    batch = token_batch([((first, 2, 3, 4), (0, 0, 0, 1)) for first in (1, 1, 5, 5)])
    assert micro_batches(batch, 10) == [[0, 1, 2, 3]]
    assert micro_batches(batch, 9) == [[0, 1], [2, 3]]  # a tree of 9 tokens would hold [0, 1, 2], and the other prompt
    assert micro_batches(batch, 4) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("budget", [1, 5, 6, 7, 8])
def test_the_trees_of_micro_batches_have_the_size_that_was_counted(budget: int) -> None:
    for part in micro_batches(BATCH, budget):
        size = plant(BATCH.select(part)).token_ids_M.numel()
        assert size <= budget or len(part) == 1


def test_a_sequence_that_begins_with_a_loss_token_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with a loss token"):
        plant(token_batch([((1, 2), (1, 1))]))


def test_nothing_to_train_makes_no_tree() -> None:
    assert micro_batches(token_batch([((1, 2), (0, 0))]), 10) == []
    assert micro_batches(token_batch([]), 10) == []
    assert torch.equal(BATCH.loss_mask.nonzero().squeeze(1), torch.tensor([3, 4, 6, 10]))


def test_sequences_are_dealt_out_by_families_the_largest_first() -> None:
    # Families by prompt: {0, 2} shares 2 tokens: 2 + 2 + 4 = 8; {1} has 9, {3} has 3, {4} has 5. All: 25, fair: 12.5.
    batch = token_batch(
        [
            ((20, 21, 30, 31), (0, 0, 1, 1)),
            (tuple(range(40, 49)), (0, 0, 0, 0, 1, 1, 1, 1, 1)),
            ((20, 21, 32, 33, 34, 35), (0, 0, 1, 1, 1, 1)),
            ((60, 61, 62), (0, 1, 1)),
            ((70, 71, 72, 73, 74), (0, 1, 1, 1, 1)),
        ]
    )
    assert deal(batch, 1) == [[0, 1, 2, 3, 4]]
    # 9 to the first, 8 to the second, 5 to the second (13), 3 to the first (12).
    assert deal(batch, 2) == [[1, 3], [0, 2, 4]]


def test_a_family_larger_than_a_fair_share_is_cut_and_ranks_may_be_left_with_nothing() -> None:
    siblings = [((20, 21, 30 + n), (0, 0, 1)) for n in range(4)]  # one family: 2 + 4 x 1 = 6 tokens
    assert sorted(map(len, deal(token_batch(siblings), 2))) == [2, 2]
    assert deal(token_batch(siblings[:1]), 3) == [[0], [], []]


def test_a_batch_without_sequences_is_a_tree_of_one_token_that_predicts_nothing() -> None:
    empty = token_batch([((20, 21), (0, 1))]).select([])
    tree = plant(empty)
    assert tree.token_ids_M.tolist() == [0]
    assert tree.predictors_L.tolist() == []
    assert micro_batches(empty, 100) == []
