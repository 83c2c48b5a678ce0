"""Real processes that share out what is sampled, and end together."""

from pathlib import Path

import pytest

from ranks_at_work import sample_together
from several_ranks import together
from turnwise.ranks import Ranks


def test_all_ranks_get_all_groups_in_order_and_end_together(tmp_path: Path):
    first, last = together(sample_together, 2, tmp_path)
    for found in (first, last):
        assert found["all"] == ["a", "b", "c", "d"]
        assert found["few"] == ["a"], "fewer problems than ranks"
        assert found["none"] == []
        assert found["after a failure"] == ["a", "b"], "they still agree about what comes next"
        assert found["stopped"], "the first was told to stop, and both have"
    assert (first["score"], last["score"]) == ("RankFailed: rank 1: ValueError: no verdict", "ValueError: no verdict")
    assert first["failure"] == "RankFailed: rank 1: OSError: the sandbox is gone"
    assert first["not finite"] == "rank 1: FloatingPointError: the logits are not finite", "as where it happened"
    assert last["not finite"] == "the logits are not finite"
    assert last["failure"] == "OSError: the sandbox is gone", "where it happened it is as it was"


@pytest.mark.parametrize(
    ("size", "num_ranks", "shares"),
    [(4, 2, [[0, 1], [2, 3]]), (5, 2, [[0, 1], [2, 3, 4]]), (1, 3, [[], [], [0]]), (0, 2, [[], []])],
)
def test_shares_are_consecutive_and_leave_nothing_out(size: int, num_ranks: int, shares: list[list[int]]):
    things = list(range(size))
    assert [things[Ranks(index=rank, count=num_ranks).share(size)] for rank in range(num_ranks)] == shares


def test_a_process_alone_talks_to_nobody():
    alone = Ranks()
    assert alone.gather("what") == ["what"]
    assert alone.together(lambda: "what") == ["what"]
    assert alone.is_first
