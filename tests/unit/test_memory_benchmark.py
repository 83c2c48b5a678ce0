"""The estimate of memory against what a process takes in truth."""

from memory import Case, compare


def test_the_tiny_policy_takes_what_is_estimated_within_a_fifth():
    measured, estimated = compare([], Case(4096))
    assert 0.8 < estimated / measured < 1.2, (measured, estimated)
