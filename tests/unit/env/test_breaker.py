import pytest

from turnwise.env.breaker import WINDOW, BrokenToolError, CircuitBreaker


def calls_until_it_trips(breaker: CircuitBreaker, outcomes: list[str | None]) -> int | None:
    """How many of the calls were made; None if all of them."""
    for count, outcome in enumerate(outcomes, start=1):
        try:
            breaker.record(outcome)
        except BrokenToolError:
            return count
    return None


def test_a_tool_that_is_gone_ends_the_run_at_the_eleventh_call():
    # 0.05 x 200 = 10 failures may be
    assert WINDOW == 200
    assert calls_until_it_trips(CircuitBreaker(0.05), ["gone"] * 30) == 11


def test_failures_by_chance_at_the_start_do_not():
    assert calls_until_it_trips(CircuitBreaker(0.05), ["gone"] * 10 + [None] * 500) is None


def test_failures_at_just_the_rate_never_trip_and_above_it_do():
    at_the_rate = ([None] * 19 + ["gone"]) * 50  # 1 in 20: 10 in every 200
    assert calls_until_it_trips(CircuitBreaker(0.05), at_the_rate) is None
    # 1 in 19: the k-th failure is call 19k, the 11th is call 209, and the first, call 19, is among the last 200
    assert calls_until_it_trips(CircuitBreaker(0.05), ([None] * 18 + ["gone"]) * 50) == 209


def test_what_left_the_window_is_forgotten():
    breaker = CircuitBreaker(0.05)
    assert calls_until_it_trips(breaker, ["gone"] * 10 + [None] * WINDOW + ["gone"] * 10) is None
    with pytest.raises(BrokenToolError, match="failed in 11 of the last 200 tool calls"):
        breaker.record("gone")


@pytest.mark.parametrize(("max_rate", "trips_at"), [(0.0, 1), (0.5, 101), (1.0, None)])
def test_the_ends_of_the_range(max_rate: float, trips_at: int | None):
    assert calls_until_it_trips(CircuitBreaker(max_rate), ["gone"] * 1000) == trips_at


def test_it_names_the_key_the_share_and_the_most_frequent_failure_in_one_line():
    breaker = CircuitBreaker(0.01)  # 2 failures may be
    breaker.record("no\nroute")
    breaker.record(None)
    breaker.record("too slow")
    with pytest.raises(BrokenToolError) as error:
        breaker.record("no\nroute")
    assert str(error.value) == (
        "the sandbox failed in 3 of the last 4 tool calls, more than env.max_infrastructure_rate=0.01 of 200; most "
        "often (2 times): no route"
    )
