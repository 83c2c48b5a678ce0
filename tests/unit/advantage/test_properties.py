"""What holds for every estimator over any ragged step: symmetries, invariances, and its definition written as loops."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from turnwise.advantage.discounted_normalised import DiscountedNormalisedAdvantage
from turnwise.advantage.end_aligned import EndAlignedAdvantage
from turnwise.advantage.gigpo import Anchor, GiGPOAdvantage
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.hybrid_turn import HybridTurnAdvantage
from turnwise.advantage.mt_grpo import MTGRPOAdvantage
from turnwise.advantage.reinforce_pp import ReinforcePPAdvantage
from turnwise.advantage.rloo import RlooAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.core.group_statistics import Pool, StdKind

TOKENS_PER_TURN = 2


@dataclass(frozen=True)
class Sampled:
    """A trajectory: process rewards and replies by turn, its outcome, and whether a tool broke."""

    process: tuple[float, ...]
    outcome: float
    replies: tuple[int, ...]
    is_excluded: bool

    @property
    def rewards(self) -> list[float]:
        return [*self.process[:-1], self.process[-1] + self.outcome]


@st.composite
def sampled(draw: st.DrawFn) -> Sampled:
    process = draw(st.lists(st.sampled_from([-0.1, 0.0, 0.25]), min_size=1, max_size=4))
    replies = draw(st.tuples(*[st.sampled_from([7, 8])] * (len(process) - 1)))
    return Sampled(tuple(process), draw(st.sampled_from([0.0, 1.0])), replies, draw(st.integers(0, 4)) == 0)


STEPS = st.lists(st.lists(sampled(), min_size=1, max_size=4), min_size=1, max_size=3)
few = settings(max_examples=12, deadline=None)
Rows = list[list[list[float]]]


@pytest.fixture(scope="session")
def advantages(scored) -> Callable[[Any, list[list[Sampled]]], Rows]:
    def compute(estimator: Any, step: list[list[Sampled]]) -> Rows:
        return estimator(
            [
                scored(
                    *[t.rewards for t in group],
                    outcomes=[t.outcome for t in group],
                    replies=[t.replies for t in group],
                    correct=[t.outcome == 1 for t in group],
                    excluded=[g for g, t in enumerate(group) if t.is_excluded],
                    id=f"p{p}",
                )
                for p, group in enumerate(step)
            ]
        )

    return compute


def assert_close(rows: Rows, expected: Rows) -> None:
    assert [[len(row) for row in group] for group in rows] == [[len(row) for row in group] for group in expected]
    flat = [[number for group in step for row in group for number in row] for step in (rows, expected)]
    assert flat[0] == pytest.approx(flat[1], rel=1e-6, abs=1e-9)


def with_fields(estimator: Any, **values: Any) -> Any:
    """The estimator with those of the fields that it has."""
    return replace(estimator, **{f.name: values[f.name] for f in fields(estimator) if f.name in values})


# ---- Symmetries


@given(step=STEPS, other=STEPS)
@few
def test_who_compares_siblings_sees_nothing_of_other_groups(advantages, estimator, step, other):
    if isinstance(estimator, ReinforcePPAdvantage) or not estimator.compares_siblings:
        assume(sum(not t.is_excluded for group in step for t in group) > 1)
        beside = advantages(estimator, step)  # the batch twice has the same mean and standard deviation
        assert_close(advantages(estimator, [*step, *step]), [*beside, *beside])
    else:
        assert_close(advantages(estimator, [*step, *other])[: len(step)], advantages(estimator, step))


# ---- Units of reward


@given(step=STEPS, factor=st.sampled_from([0.125, 3.0, 100.0]))
@few
def test_scaling_all_rewards(advantages, estimator, step, factor):
    scaled = [
        [replace(t, process=tuple(factor * x for x in t.process), outcome=factor * t.outcome) for t in group]
        for group in step
    ]
    exact = with_fields(estimator, eps=0.0, mask_equal_outcomes=False)
    divides = isinstance(exact, ReinforcePPAdvantage) or getattr(exact, "scale_by_std", False)
    expected = advantages(exact, step)
    if not divides:
        expected = [[[factor * number for number in row] for row in rows] for rows in expected]
    assert_close(advantages(exact, scaled), expected)


@given(step=STEPS, shift=st.sampled_from([-1.0, 0.5, 3.0]))
@few
def test_a_constant_for_everyone_changes_nothing(advantages, estimator, step, shift):
    """On every outcome, not discounted; where turn rewards are what is normalised, on every turn."""
    undiscounted = with_fields(estimator, discount=1.0, mask_equal_outcomes=False)
    if isinstance(estimator, DiscountedNormalisedAdvantage):
        shifted = [[replace(t, process=tuple(x + shift for x in t.process)) for t in group] for group in step]
    else:
        shifted = [[replace(t, outcome=t.outcome + shift) for t in group] for group in step]
    assert_close(advantages(undiscounted, shifted), advantages(undiscounted, step))


# ---- Definitions as loops


@dataclass(frozen=True)
class Point:
    """A number, the pool that it is measured against, its trajectory, and its weight in the pool (0: no member)."""

    value: float
    pool: Any
    trajectory: Any
    weight: float = 1.0


def normalised(
    points: Sequence[Point], component: Any, *, scale_by_std: bool | None = None, leave_one_out: bool = False
) -> list[float]:
    """`(x - mean) / (std + eps)` of each point against its pool, one at a time."""
    scales = getattr(component, "scale_by_std", False) if scale_by_std is None else scale_by_std
    result = []
    for point in points:
        members = [q for q in points if q.pool == point.pool and q.weight]
        mean, total = weighted_mean(members)
        squares = math.fsum(q.weight * (q.value - mean) ** 2 for q in members)
        is_sample = getattr(component, "std_kind", None) == StdKind.sample
        divisor = total - math.fsum(q.weight**2 for q in members) / total if is_sample else total
        std = math.sqrt(squares / divisor) if divisor else 0.0
        if std < 1e-9 or len({q.trajectory for q in members}) < 2:
            result.append(0.0)
            continue
        if leave_one_out:
            mean, _ = weighted_mean(q for q in members if q.trajectory != point.trajectory)
        result.append((point.value - mean) / (std + component.eps if scales else 1))
    return result


def weighted_mean(points: Iterable[Point]) -> tuple[float, float]:
    """Mean and total weight."""
    points = list(points)
    total = math.fsum(q.weight for q in points)
    return math.fsum(q.weight * q.value for q in points) / total, total


def by_loops(component: Any, step: list[list[Sampled]]) -> Rows:
    """The definition of each estimator in plain Python."""
    included = [(p, g) for p, group in enumerate(step) for g, t in enumerate(group) if not t.is_excluded]
    turns = [(p, g, k) for p, g in included for k in range(len(step[p][g].process))]
    reward = {(p, g, k): step[p][g].rewards[k] for p, g, k in turns}
    total = {(p, g): math.fsum(step[p][g].rewards) for p, g in included}
    outcome = {(p, g): step[p][g].outcome for p, g in included}

    def to_the_end(values: dict[tuple[int, int, int], float], discount: float) -> dict[tuple[int, int, int], float]:
        return {
            (p, g, k): math.fsum(discount ** (m - k) * values[p, g, m] for m in range(k, len(step[p][g].process)))
            for p, g, k in turns
        }

    def in_groups(values: dict[tuple[int, int], float], **options: Any) -> dict[tuple[int, int], float]:
        points = [Point(values[p, g], p, (p, g)) for p, g in included]
        return dict(zip(included, normalised(points, component, **options), strict=True))

    def of_turns(
        values: dict[tuple[int, int, int], float],
        pool: Callable[[int, int, int], Any],
        weight: Callable[[int, int, int], float] = lambda p, g, k: 1.0,
        **options: Any,
    ) -> dict[tuple[int, int, int], float]:
        points = [Point(values[turn], pool(*turn), turn[:2], weight(*turn)) for turn in turns]
        return dict(zip(turns, normalised(points, component, **options), strict=True))

    def repeated(values: dict[tuple[int, int], float]) -> dict[tuple[int, int, int], float]:
        return {(p, g, k): values[p, g] for p, g, k in turns}

    match component:
        case TurnReturnAdvantage(pool=pool):

            def weight(p: int, g: int, k: int) -> float:
                if pool == Pool.first_turn:
                    return float(k == 0)
                members = 1 if pool == Pool.turn_index else len(step[p][g].process)
                return 1 / members if component.weight_by_trajectory else 1.0

            pools = {Pool.batch: lambda p, g, k: 0, Pool.turn_index: lambda p, g, k: (p, k)}
            result = of_turns(
                to_the_end(reward, component.discount),
                pools.get(pool, lambda p, g, k: p),
                weight,
                leave_one_out=component.leave_one_out,
            )
            if component.mask_equal_outcomes:
                kinds = {p: {outcome[q, g] == 1 for q, g in included if q == p} for p, _ in included}
                result = {turn: 0.0 if len(kinds[turn[0]]) == 1 else number for turn, number in result.items()}
        case GroupNormAdvantage():
            result = repeated(in_groups(total))
        case RlooAdvantage():
            result = repeated(in_groups(total, leave_one_out=True))
        case ReinforcePPAdvantage():
            numbers = in_groups(total) if component.group_baseline else total
            tokens = {(p, g): TOKENS_PER_TURN * len(step[p][g].process) for p, g in included}
            weights = tokens if component.weight_by_tokens else dict.fromkeys(included, 1.0)
            points = [Point(numbers[i], 0, i, weights[i]) for i in included]
            whitened = normalised(points, component, scale_by_std=True)
            result = repeated(dict(zip(included, whitened, strict=True)))
        case MTGRPOAdvantage():
            process = {(p, g, k): step[p][g].process[k] for p, g, k in turns}
            sums, same = to_the_end(of_turns(process, lambda p, g, k: (p, k)), 1.0), repeated(in_groups(outcome))
            result = {turn: sums[turn] + same[turn] for turn in turns}
        case HybridTurnAdvantage():
            # the return of a turn as the paper writes it, process and outcome apart
            process = to_the_end({(p, g, k): step[p][g].process[k] for p, g, k in turns}, component.discount)
            returns = {
                (p, g, k): process[p, g, k]
                + component.discount ** (len(step[p][g].process) - 1 - k) * step[p][g].outcome
                for p, g, k in turns
            }
            own, same = of_turns(returns, lambda p, g, k: (p, k)), repeated(in_groups(outcome))
            result = {turn: own[turn] + component.outcome_weight * same[turn] for turn in turns}
        case DiscountedNormalisedAdvantage(pool=pool):
            first = of_turns(reward, lambda p, g, k: p if pool == Pool.group else 0)
            result = to_the_end(first, component.discount)
        case EndAlignedAdvantage():
            left = {(p, g, k): (p, len(step[p][g].process) - 1 - k) for p, g, k in turns}
            level = {place: fmean(reward[turn] for turn in turns if left[turn] == place) for place in left.values()}
            average = {
                (p, d): math.fsum(component.discount ** (d - e) * level[p, e] for e in range(d + 1)) for p, d in level
            }
            returns = to_the_end(reward, component.discount)
            result = {turn: returns[turn] - average[left[turn]] for turn in turns}
            if component.scale_by_std:
                squares = {i: fmean(result[*i, k] ** 2 for k in range(len(step[i[0]][i[1]].process))) for i in included}
                spread = {p: math.sqrt(fmean(squares[i] for i in included if i[0] == p)) for p, _ in included}
                result = {
                    turn: 0.0 if spread[turn[0]] < 1e-11 else number / (spread[turn[0]] + component.eps)
                    for turn, number in result.items()
                }
        case GiGPOAdvantage():

            def state(p: int, g: int, k: int) -> Any:
                replies = step[p][g].replies[:k]
                return (p, replies if component.anchor == Anchor.transcript else replies[-1:])

            own, same = of_turns(to_the_end(reward, component.discount), state), repeated(in_groups(total))
            result = {turn: same[turn] + component.step_weight * own[turn] for turn in turns}
        case _:
            raise AssertionError(f"no definition of {component}")
    return [
        [[result.get((p, g, k), 0.0) for k in range(len(t.process))] for g, t in enumerate(group)]
        for p, group in enumerate(step)
    ]


@given(
    step=STEPS,
    std_kind=st.sampled_from(StdKind),
    eps=st.sampled_from([1e-6, 0.1]),
    discount=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
@few
def test_equals_the_definition_written_as_loops(advantages, estimator, step, std_kind, eps, discount):
    varied = with_fields(estimator, std_kind=std_kind, eps=eps, discount=discount)
    assert_close(advantages(varied, step), by_loops(varied, step))
