import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.core.group_statistics import Pool, StdKind

MEAN_ONLY = TurnReturnAdvantage(scale_by_std=False)


def flat(advantages: list[list[list[float]]]) -> list[float]:
    return [number for rows in advantages for row in rows for number in row]


# ---- The worked consequences of docs/PAPER.md section 4


def test_every_trajectory_correct_punishes_early_turns(scored):
    # Returns .81, .90, 1 in every trajectory. mean 2.71 / 3 = .903333; deviations -.093333, -.003333, +.096667;
    # variance (.0087111 + .0000111 + .0093444) / 3 = .0060222, std .0776029.
    # -.093333 / .077604 = -1.2027;  -.003333 / .077604 = -0.0430;  +.096667 / .077604 = +1.2456
    group = scored(*[[0, 0, 1]] * 4)
    rows = TurnReturnAdvantage()([group])[0]
    for row in rows:
        assert row == pytest.approx([-1.2027, -0.0430, 1.2456], abs=5e-5)
    assert GroupNormAdvantage()([group]) == [[[0, 0, 0]] * 4]


def test_one_format_error_among_wrong_trajectories(scored):
    # Of 12 returns one is -.1. mean -.0083333; variance .01 / 12 - .0083333^2 = .00076389, std .0276385.
    # (-.1 + .0083333) / .0276395 = -3.3165;  +.0083333 / .0276395 = +0.3015
    group = scored([-0.1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0])
    assert TurnReturnAdvantage()([group])[0][0] == pytest.approx([-3.3165, 0.3015, 0.3015], abs=5e-5)
    for row in TurnReturnAdvantage()([group])[0][1:]:
        assert row == pytest.approx([0.3015] * 3, abs=5e-5)


def test_turns_not_trajectories_set_the_mean(scored):
    # gamma 1: returns 1, 1, 1 and 0, 0: the mean over turns is 3/5, over trajectories 1/2
    group = scored([0, 0, 1], [0, 0])
    by_turn = replace(MEAN_ONLY, discount=1.0)
    assert by_turn([group])[0] == [pytest.approx([0.4] * 3), pytest.approx([-0.6] * 2)]
    expected = [pytest.approx([0.5] * 3), pytest.approx([-0.5] * 2)]
    assert GroupNormAdvantage(scale_by_std=False)([group])[0] == expected
    assert replace(by_turn, weight_by_trajectory=True)([group])[0] == expected


# ---- Reduction laws


@given(
    rows=st.lists(st.lists(st.sampled_from([-0.1, 0.0, 0.3, 1.0]), min_size=1, max_size=1), min_size=1, max_size=8),
    std_kind=st.sampled_from(StdKind),
    scale_by_std=st.booleans(),
    leave_one_out=st.booleans(),
    mask_equal_outcomes=st.booleans(),
    discount=st.floats(0, 1),
)
def test_one_turn_per_trajectory_is_grpo_exactly(scored, rows, discount, **fields):
    groups = [scored(*rows), scored([0], [1], [1], id="p1")]
    turn_level = TurnReturnAdvantage(discount=discount, **fields)
    assert turn_level(groups) == GroupNormAdvantage(**fields)(groups)


def test_gamma_one_and_a_last_turn_reward_give_a_trajectory_one_number(scored):
    rows = TurnReturnAdvantage(discount=1.0)([scored([0, 0, 1], [0, 0], [0, 1])])[0]
    # returns 1 1 1 0 0 1 1: mean 5/7, std sqrt(5/7 * 2/7) = .451754;
    # (2/7) / .451755 = .632454, (-5/7) / .451755 = -1.581135
    assert rows == [
        pytest.approx([0.632454] * 3, abs=2e-6),
        pytest.approx([-1.581135] * 2, abs=2e-6),
        pytest.approx([0.632454] * 2, abs=2e-6),
    ]
    assert all(len(set(row)) == 1 for row in rows)


# ---- Pools, by hand: gamma 0.5; group 0: [0, 1] -> .5, 1 and [0] -> 0; group 1: [1, 1] -> 1.5, 1


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        # mean .5 of (.5, 1, 0); the turns of group 1 are all of one trajectory, which has no siblings
        (Pool.group, [[[0, 0.5], [-0.5]], [[0, 0]]]),
        # mean 4 / 5 = .8
        (Pool.batch, [[[-0.3, 0.2], [-0.8]], [[0.7, 0.2]]]),
        # first turns .5, 0: mean .25; the second turn of group 0 and both of group 1 are alone
        (Pool.turn_index, [[[0.25, 0], [-0.25]], [[0, 0]]]),
        # against .25 of the first turns; group 1 has one first turn, which tells nothing
        (Pool.first_turn, [[[0.25, 0.75], [-0.25]], [[0, 0]]]),
    ],
)
def test_each_pool_by_hand(scored, pool: Pool, expected: list[list[list[float]]]):
    groups = [scored([0, 1], [0]), scored([1, 1], id="p1")]
    result = TurnReturnAdvantage(discount=0.5, pool=pool, scale_by_std=False)(groups)
    assert flat(result) == pytest.approx(flat(expected))
    assert [[len(row) for row in rows] for rows in result] == [[2, 1], [2]]


def test_first_turn_pool_scales_by_the_first_turns_alone(scored):
    # first turns .5 and 0: mean .25, std .25; the later turn with return 1 gets (1 - .25) / .25 = 3
    result = TurnReturnAdvantage(discount=0.5, pool=Pool.first_turn, eps=0)([scored([0, 1], [0])])
    assert result == [[pytest.approx([1, 3]), pytest.approx([-1])]]


def test_first_turn_pool_without_spread_does_not_explode(scored):
    # All first turns return .81: the later .9 and 1 must not be divided by eps.
    assert TurnReturnAdvantage(pool=Pool.first_turn)([scored([0, 0, 1], [0, 0, 1])]) == [[[0, 0, 0], [0, 0, 0]]]


# ---- Every field against the definition written as loops


def by_loops(component: TurnReturnAdvantage, groups: list[list[list[float]]]) -> list[list[list[float]]]:
    """Plain Python: for every turn gathers its pool, then mean, standard deviation and advantage."""
    turns = [
        (p, g, k, sum(component.discount ** (m - k) * row[m] for m in range(k, len(row))))
        for p, rows in enumerate(groups)
        for g, row in enumerate(rows)
        for k in range(len(row))
    ]

    def is_in_pool_of(p: int, k: int, other_p: int, other_k: int) -> bool:
        return {
            Pool.group: other_p == p,
            Pool.batch: True,
            Pool.turn_index: other_p == p and other_k == k,
            Pool.first_turn: other_p == p and other_k == 0,
        }[component.pool]

    result: list[list[list[float]]] = [[[] for _ in rows] for rows in groups]
    for p, g, k, value in turns:
        members = [(q, h, other) for q, h, j, other in turns if is_in_pool_of(p, k, q, j)]
        weights = [
            1 / sum((q, h) == (r, i) for r, i, _ in members) if component.weight_by_trajectory else 1.0
            for q, h, _ in members
        ]
        total = math.fsum(weights)
        mean = math.fsum(w * x for w, (_, _, x) in zip(weights, members, strict=True)) / total
        squares = math.fsum(w * (x - mean) ** 2 for w, (_, _, x) in zip(weights, members, strict=True))
        sample = component.std_kind == StdKind.sample
        divisor = total - math.fsum(w * w for w in weights) / total if sample else total
        std = math.sqrt(squares / divisor) if squares > 1e-18 else 0.0
        centre = mean
        if component.leave_one_out:
            others = [(w, x) for w, (q, h, x) in zip(weights, members, strict=True) if (q, h) != (p, g)]
            centre = math.fsum(w * x for w, x in others) / math.fsum(w for w, _ in others) if others else value
        advantage = (value - centre) / (std + component.eps if component.scale_by_std else 1)
        has_siblings = len({(q, h) for q, h, _ in members}) > 1
        result[p][g].append(advantage if std > 0 and has_siblings else 0.0)
    return result


ROWS = st.lists(st.sampled_from([-0.1, 0.0, 0.25, 1.0]), min_size=1, max_size=4)
COMPONENTS = st.builds(
    TurnReturnAdvantage,
    discount=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    pool=st.sampled_from(Pool),
    std_kind=st.sampled_from(StdKind),
    eps=st.sampled_from([1e-6, 0.1]),
    scale_by_std=st.booleans(),
    leave_one_out=st.booleans(),
    weight_by_trajectory=st.booleans(),
)
GROUPS = st.lists(st.lists(ROWS, min_size=1, max_size=4), min_size=1, max_size=3)


@given(component=COMPONENTS, groups=GROUPS)
def test_equals_the_definition_written_as_loops(scored, component, groups):
    result = component([scored(*rows, id=f"p{p}") for p, rows in enumerate(groups)])
    assert flat(result) == pytest.approx(flat(by_loops(component, groups)), rel=1e-6, abs=1e-9)
    assert [[len(row) for row in rows] for rows in result] == [[len(row) for row in rows] for rows in groups]


# ---- Invariants


@given(component=COMPONENTS, rows=st.lists(ROWS, min_size=1, max_size=5), data=st.data())
def test_permuting_siblings_permutes_their_advantages(scored, component, rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    plain, permuted = component([scored(*rows)])[0], component([scored(*[rows[g] for g in order])])[0]
    assert flat([permuted]) == pytest.approx(flat([[plain[g] for g in order]]), rel=1e-6, abs=1e-9)


@given(component=COMPONENTS, groups=GROUPS, data=st.data())
def test_excluded_trajectories_change_nothing_and_get_zeros(scored, component, groups, data):
    expected = component([scored(*rows, id=f"p{p}") for p, rows in enumerate(groups)])
    intruded, places = [], []
    for p, rows in enumerate(groups):
        place = data.draw(st.integers(0, len(rows)))
        rows_with = [*rows[:place], [5.0, -7.0], *rows[place:]]
        intruded.append(scored(*rows_with, correct=[True] * len(rows_with), excluded=[place], id=f"p{p}"))
        places.append(place)
    for rows, expected_rows, place in zip(component(intruded), expected, places, strict=True):
        assert rows[place] == [0, 0]
        assert rows[:place] + rows[place + 1 :] == expected_rows


@pytest.mark.parametrize("pool", [Pool.group, Pool.batch])
def test_advantages_of_a_pool_average_to_zero(scored, pool: Pool):
    result = flat(TurnReturnAdvantage(pool=pool)([scored([0, -0.1, 1], [0, 0], [-0.1, 0.3], [1])]))
    assert math.fsum(result) == pytest.approx(0, abs=1e-9)
    assert math.fsum(x * x for x in result) / len(result) == pytest.approx(1, abs=1e-4)


# ---- Degenerate groups and the guards


@pytest.mark.parametrize("pool", list(Pool))
@pytest.mark.parametrize("std_kind", list(StdKind))
def test_one_trajectory_of_one_turn_gives_zero(scored, pool: Pool, std_kind: StdKind):
    assert TurnReturnAdvantage(pool=pool, std_kind=std_kind)([scored([1])]) == [[[0]]]


def test_equal_returns_give_zeros(scored):
    assert TurnReturnAdvantage(discount=1.0)([scored([0, 1], [0, 0, 1], [1])]) == [[[0, 0], [0, 0, 0], [0]]]


def test_nothing_included_gives_zeros(scored):
    assert TurnReturnAdvantage()([scored([1, 0], [1], excluded=[0, 1])]) == [[[0, 0], [0]]]
    assert TurnReturnAdvantage()([scored([])]) == [[[]]]
    assert TurnReturnAdvantage()([]) == []


def test_mask_equal_outcomes(scored):
    component = TurnReturnAdvantage(mask_equal_outcomes=True)
    all_right, all_wrong, mixed = scored([0, 1], [1]), scored([-0.1, 0], [0], id="p1"), scored([0, 1], [0], id="p2")
    plain = TurnReturnAdvantage()([all_right, all_wrong, mixed])
    assert component([all_right, all_wrong, mixed]) == [[[0, 0], [0]], [[0, 0], [0]], plain[2]]
    assert all(any(flat([rows])) for rows in plain)


def test_mask_equal_outcomes_reads_outcomes_and_leaves_the_batch_pool_alone(scored):
    # The rewards of p1 differ, its outcomes do not: it gets zeros and still moves the mean of the batch.
    groups = [scored([0], [1]), scored([-0.1], [0], id="p1")]
    component = TurnReturnAdvantage(pool=Pool.batch, scale_by_std=False, mask_equal_outcomes=True)
    # mean (0 + 1 - .1 + 0) / 4 = .225
    assert flat(component(groups)) == pytest.approx([-0.225, 0.775, 0, 0])


def test_outcomes_of_excluded_trajectories_do_not_unmask(scored):
    component = TurnReturnAdvantage(mask_equal_outcomes=True)
    assert component([scored([-0.1], [0], [1], excluded=[2])]) == [[[0], [0], [0]]]


def test_defaults_are_the_documented_ones():
    assert TurnReturnAdvantage() == TurnReturnAdvantage(
        discount=0.9,
        pool=Pool.group,
        std_kind=StdKind.population,
        eps=1e-6,
        scale_by_std=True,
        leave_one_out=False,
        mask_equal_outcomes=False,
        weight_by_trajectory=False,
    )


@pytest.mark.parametrize("discount", [-0.1, 1.1, math.nan])
def test_discount_out_of_range(discount: float):
    with pytest.raises(ValueError, match=f"discount={discount}: expected 0 to 1"):
        TurnReturnAdvantage(discount=discount)


@pytest.mark.parametrize("eps", [-1e-6, 1.0, math.nan])
def test_eps_out_of_range(eps: float):
    with pytest.raises(ValueError, match=f"eps={eps}: expected at least 0 and less than 1"):
        TurnReturnAdvantage(eps=eps)


@pytest.mark.parametrize("fields", [{"pool": "everything"}, {"std_kind": "robust"}])
def test_unknown_choices(fields: dict[str, str]):
    (name, value), *_ = fields.items()
    with pytest.raises(ValueError, match=f"{name}={value}: expected one of (group, batch|population, sample)"):
        TurnReturnAdvantage(**fields)  # pyright: ignore[reportArgumentType]
