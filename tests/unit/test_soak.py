"""The verdict on an hour's readings: whatever grows is seen, also when it begins in the last five minutes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from soak import Reading, Verdict, judged

STILL = Reading(at_s=0.0, steps=0, main_mib=1000.0, all_mib=2000.0, descriptors=40, threads=20, processes=8)
HOUR_S = 3600.0


def readings(seconds: float, changed: Callable[[float, Reading], Reading] = lambda _, one: one) -> Sequence[Reading]:
    """One every three seconds and a bit, of which the last is from before the end."""
    return [changed(3.1 * number, replace(STILL, at_s=3.1 * number)) for number in range(int(seconds / 3.1))]


def since(start_s: float, **figures: float) -> Callable[[float, Reading], Reading]:
    return lambda at_s, one: replace(one, **figures) if at_s >= start_s else one


def test_what_stays_as_it_is_is_flat():
    assert judged(readings(HOUR_S), HOUR_S) == Verdict(0.0, 0.0, 0, 0)
    assert judged(readings(HOUR_S), HOUR_S).is_flat


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({"main_mib": 1062.5}, Verdict(0.0625, 0.0, 0, 0)),
        ({"all_mib": 4000.0}, Verdict(0.0, 1.0, 0, 0)),
        ({"descriptors": 500}, Verdict(0.0, 0.0, 460, 0)),
        ({"processes": 9}, Verdict(0.0, 0.0, 0, 1)),
    ],
)
def test_the_last_five_minutes_count(figures: dict[str, float], verdict: Verdict):
    seen = judged(readings(HOUR_S, since(HOUR_S - 300, **figures)), HOUR_S)
    assert seen == verdict
    assert not seen.is_flat


def test_the_warm_up_does_not_count_nor_what_is_there_for_a_moment():
    def changed(at_s: float, one: Reading) -> Reading:
        if at_s < 600:
            return replace(one, main_mib=500.0, all_mib=700.0, descriptors=10, processes=2)
        return replace(one, main_mib=3000.0, descriptors=90, processes=12) if 3400 < at_s < 3500 else one

    assert judged(readings(HOUR_S, changed), HOUR_S) == Verdict(0.0, 0.0, 0, 0)


@pytest.mark.parametrize("seconds", [600.0, 700.0, 1300.0])
def test_a_short_soak_is_judged_to_its_end(seconds: float):
    assert judged(readings(seconds), seconds).is_flat
    grown = judged(readings(seconds, since(seconds - 300, all_mib=2250.0, descriptors=41)), seconds)
    assert grown == Verdict(0.0, 0.125, 1, 0)


def test_memory_that_went_up_and_down_again_has_grown():
    def changed(at_s: float, one: Reading) -> Reading:
        return replace(one, all_mib=2500.0) if 1800 <= at_s < 2100 else one

    assert judged(readings(HOUR_S, changed), HOUR_S) == Verdict(0.0, 0.25, 0, 0)
