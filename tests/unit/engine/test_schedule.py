"""Plans written out by hand: who is in which pass, in which slot, and what is copied instead of computed."""

import asyncio
from collections.abc import Iterator

import pytest

from tiny_models import sampling
from turnwise.engine.packed_pass import Copy, Stretch
from turnwise.engine.schedule import Plan, Schedule
from turnwise.engine.transcript import Transcript, Turn, deliver
from turnwise.types import FinishReason

NO_STOP: frozenset[int] = frozenset()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def turn(loop: asyncio.AbstractEventLoop):
    """A turn of up to `max_new_tokens`."""

    def make(max_new_tokens: int = 3) -> Turn:
        uniforms = [n / 8 for n in range(max_new_tokens)]
        return Turn(sampling=sampling(), max_new_tokens=max_new_tokens, uniforms=uniforms, future=loop.create_future())

    return make


def schedule(
    tool_ticks: int = 2, prefill_tokens: int = 100, max_slots: int = 8, max_cached_tokens: int = 1000
) -> Schedule:
    return Schedule(
        tool_ticks=tool_ticks,
        prefill_tokens=prefill_tokens,
        max_slots=max_slots,
        max_cached_tokens=max_cached_tokens,
    )


def run(plan: Plan, schedule: Schedule, token: int = 99, stop: frozenset[int] = NO_STOP) -> list[Transcript]:
    """Draws `token` for all; returns those whose turns end."""
    ended = []
    for draw in plan.draws:
        reason = draw.transcript.append(token, -1.0, stop)
        if reason is not None:
            schedule.rest(draw.transcript)
            deliver([draw.transcript.complete(reason, 0)])
            ended.append(draw.transcript)
    return ended


def test_a_trajectory_is_prefilled_once_and_then_decodes_one_token_a_pass(turn) -> None:
    s = schedule()
    t = s.open()
    t.ask((5, 6, 7), turn(2))
    first = s.plan()
    assert first.stretches == [Stretch(0, 0, [5, 6, 7])]
    assert [(d.slot, d.num_tokens, d.uniform) for d in first.draws] == [(0, 3, 0.0)]
    run(first, s, token=40)
    second = s.plan()
    assert second.stretches == [Stretch(0, 3, [40])]
    assert [d.uniform for d in second.draws] == [1 / 8]
    future = second.draws[0].turn.future
    assert run(second, s, token=41) == [t]
    assert future.result().token_ids == (40, 41)
    assert future.result().finish_reason is FinishReason.length


def test_between_turns_only_what_was_appended_is_computed(turn) -> None:
    s = schedule(tool_ticks=1)
    t = s.open()
    t.ask((5, 6, 7), turn(7))  # of the trajectory's 10 tokens
    run(s.plan(), s, token=40, stop=frozenset({40}))
    t.ask((5, 6, 7, 40, 50, 51), turn(4))
    assert s.plan().stretches == [Stretch(0, 3, [40, 50, 51])]  # the sampled token was not yet in the model


def test_a_trajectory_is_admitted_at_its_tick_and_neither_before_nor_after(turn) -> None:
    s = schedule(tool_ticks=3)
    a, b = s.open(), s.open()
    a.ask((5,), turn(1))
    b.ask((6,), turn(9))
    assert run(s.plan(), s) == [a]  # tick 0: a is due again at tick 3
    a.ask((5, 99, 7), turn(1))  # at once; its tool took no time
    for _ in range(2):  # ticks 1 and 2
        assert s.is_settled
        plan = s.plan()
        assert [d.transcript for d in plan.draws] == [b]
        run(plan, s)
    assert [d.transcript for d in s.plan().draws] == [b, a]


def test_the_schedule_is_not_settled_while_someone_who_is_due_is_silent(turn) -> None:
    s = schedule(tool_ticks=2)
    a, b = s.open(), s.open()
    assert not s.is_settled
    a.ask((5,), turn(1))
    assert not s.is_settled  # b is open and silent
    b.ask((6,), turn(9))
    assert s.is_settled
    run(s.plan(), s)
    assert s.is_settled  # tick 1: a is due at tick 2 only
    run(s.plan(), s)
    assert not s.is_settled
    a.is_closed = True
    assert s.is_settled


def test_time_jumps_when_there_is_nothing_to_compute(turn) -> None:
    s = schedule(tool_ticks=50)
    a = s.open()
    a.ask((5,), turn(1))
    run(s.plan(), s)
    assert s.is_settled
    assert s.plan().stretches == []
    assert not s.is_settled  # it is tick 50
    a.ask((5, 99, 7), turn(1))
    assert [d.transcript for d in s.plan().draws] == [a]


def test_a_closed_trajectory_gives_its_slot_back_when_it_is_due(turn) -> None:
    s = schedule(tool_ticks=2, max_slots=2)
    a, b, c = s.open(), s.open(), s.open()
    for t, budget in ((a, 1), (b, 9), (c, 1)):
        t.ask((5,), turn(budget))
    run(s.plan(), s)  # tick 0: a and b have the slots
    a.is_closed = True  # at once; it is due at tick 2
    plan = s.plan()
    assert [d.transcript for d in plan.draws] == [b]
    run(plan, s)
    assert [(d.transcript, d.slot) for d in s.plan().draws] == [(b, 1), (c, 0)]
    assert s.transcripts == [b, c]


def test_whoever_is_closed_in_its_turn_is_gone_from_the_next_pass(turn) -> None:
    s = schedule()
    a, b = s.open(), s.open()
    a.ask((5,), turn())
    b.ask((6,), turn())
    run(s.plan(), s)
    assert a.turn is not None
    future = a.turn.future
    a.is_closed = True
    a.fail()
    assert future.cancelled()
    assert [d.transcript for d in s.plan().draws] == [b]


def test_equal_prompts_are_computed_once_and_drawn_from_one_row(turn) -> None:
    s = schedule()
    transcripts = [s.open() for _ in range(3)]
    for t in transcripts:
        t.ask((5, 6, 7), turn())
    plan = s.plan()
    assert plan.stretches == [Stretch(0, 0, [5, 6, 7])]
    assert plan.copies == [Copy(0, 1, 0, 3), Copy(1, 2, 0, 3)]
    assert [(d.transcript, d.slot) for d in plan.draws] == [(t, 0) for t in transcripts]
    run(plan, s)
    assert s.plan().stretches == [Stretch(slot, 3, [99]) for slot in range(3)]


def test_prompts_that_begin_alike_share_their_beginning(turn) -> None:
    s = schedule()
    for prompt in ((5, 6, 9, 9), (5, 6, 7), (5, 6, 7, 8), (4, 6)):
        s.open().ask(prompt, turn())
    plan = s.plan()
    # Sorted: (4, 6), (5, 6, 7), (5, 6, 7, 8), (5, 6, 9, 9) in the slots 3, 1, 2, 0.
    assert plan.stretches == [
        Stretch(3, 0, [4, 6]),
        Stretch(1, 0, [5, 6, 7]),
        Stretch(2, 3, [8]),
        Stretch(0, 2, [9, 9]),
    ]
    assert plan.copies == [Copy(1, 2, 0, 3), Copy(2, 0, 0, 2)]
    assert sorted(d.slot for d in plan.draws) == [0, 1, 2, 3]


def test_a_long_prompt_takes_several_passes_beside_which_others_decode(turn) -> None:
    s = schedule(prefill_tokens=3)
    a, b, twin = s.open(), s.open(), s.open()
    a.ask((9,), turn(9))
    for t in (b, twin):
        t.ask((1, 2, 3, 4, 5), turn(9))
    first = s.plan()
    assert first.stretches == [Stretch(0, 0, [9]), Stretch(1, 0, [1, 2, 3])]
    assert [d.transcript for d in first.draws] == [a]
    run(first, s)
    second = s.plan()
    assert second.stretches == [Stretch(0, 1, [99]), Stretch(1, 3, [4, 5])]
    assert second.copies == [Copy(1, 2, 3, 5)]  # the first three were copied in the first pass
    assert [d.transcript for d in second.draws] == [a, b, twin]


def test_slots_are_as_long_as_the_longest_of_those_who_wait_and_as_many_as_fit(turn) -> None:
    s = schedule(max_cached_tokens=25)
    for prompt, budget in (((1, 2), 3), ((3,), 7), ((4,), 1)):
        s.open().ask(prompt, turn(budget))
    assert [d.slot for d in s.plan().draws] == [1, 2, 0]  # single tokens first
    assert s.layout == (3, 8)  # 1 + 7 tokens; 3 x 8 are at most 25


def test_one_that_needs_longer_slots_waits_until_all_are_free(turn) -> None:
    s = schedule(tool_ticks=1)
    a = s.open()
    a.ask((1,), turn(2))
    run(s.plan(), s)
    assert s.layout == (8, 3)
    b = s.open()
    b.ask((2,), turn(9))
    plan = s.plan()
    assert [d.transcript for d in plan.draws] == [a]
    run(plan, s)
    a.ask((1, 99, 99, 7), turn(3))  # its own needs have grown too: it goes back to the others and is computed anew
    plan = s.plan()
    assert s.layout == (8, 10)
    assert plan.stretches == [Stretch(1, 0, [2]), Stretch(0, 0, [1, 99, 99, 7])]


def test_after_a_reset_everything_is_computed_anew(turn) -> None:
    s = schedule(tool_ticks=1)
    t = s.open()
    t.ask((5, 6), turn(1))
    run(s.plan(), s)
    s.reset()
    t.ask((5, 6, 99, 7), turn(1))
    assert s.plan().stretches == [Stretch(0, 0, [5, 6, 99, 7])]
