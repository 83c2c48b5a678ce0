"""Advantages of a million ragged turns by every estimator on tensors; from groups; and by a plain loop."""

from collections.abc import Callable
from functools import partial
from math import sqrt
from statistics import median
from time import perf_counter

import torch

from turnwise.advantage.discounted_normalised import DiscountedNormalisedAdvantage
from turnwise.advantage.gigpo import GiGPOAdvantage
from turnwise.advantage.group_norm import GroupNormAdvantage
from turnwise.advantage.hybrid_turn import HybridTurnAdvantage
from turnwise.advantage.mt_grpo import MTGRPOAdvantage
from turnwise.advantage.reinforce_pp import ReinforcePPAdvantage
from turnwise.advantage.rloo import RlooAdvantage
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.core.group_statistics import Pool
from turnwise.core.segments import pair_index
from turnwise.core.turns import Turns
from turnwise.types import FinishReason, Group, Message, Problem, ScoredGroup, StopReason, Trajectory, Turn

NUM_TURNS = 1_000_000
GROUP_SIZE = 8
MAX_TURNS = 7
REPEATS = 5


def measure() -> dict[str, float]:
    """Seconds for a million turns.

    `..._s` are estimators on flat tensors. `from_groups_s` is GTPO's from trajectories to nested lists, as a training
    step calls it, scaled up from a tenth of the turns. `loop_over_...` says how many times longer a loop takes,
    measured on a hundredth.
    """
    turns, few = ragged_turns(NUM_TURNS), ragged_turns(NUM_TURNS // 100)
    # First turns share the problem; of later ones, those with the same place and format error are taken to begin alike.
    states_K = pair_index(
        turns.group_index_K, turns.turn_index_K * 2 + (turns.rewards_K < 0) * (turns.turn_index_K > 0)
    )
    arms: dict[str, Callable[[], object]] = {
        f"turn_return_{pool}": partial(TurnReturnAdvantage(pool=pool).of_turns, turns) for pool in Pool
    }
    arms |= {
        "group_norm": partial(GroupNormAdvantage().of_turns, turns),
        "rloo": partial(RlooAdvantage().of_turns, turns),
        "reinforce_pp": partial(ReinforcePPAdvantage().of_turns, turns),
        "mt_grpo": partial(MTGRPOAdvantage().of_turns, turns),
        "hybrid_turn": partial(HybridTurnAdvantage().of_turns, turns),
        "discounted_normalised": partial(DiscountedNormalisedAdvantage().of_turns, turns),
        "gigpo": partial(GiGPOAdvantage().of_turns, turns, states_K),
    }
    figures = {f"{name}_s": seconds(work) for name, work in arms.items()}
    groups = scored_groups(ragged_turns(NUM_TURNS // 10))
    figures["from_groups_s"] = 10 * seconds(lambda: TurnReturnAdvantage()(groups))
    loop_s = seconds(lambda: plain_loop(few)) * turns.rewards_K.numel() / few.rewards_K.numel()
    expected = torch.tensor(plain_loop(few), dtype=torch.float64)
    torch.testing.assert_close(TurnReturnAdvantage().of_turns(few), expected, rtol=1e-9, atol=1e-9)
    return {**figures, "loop_over_turn_return_group": loop_s / figures["turn_return_group_s"]}


def seconds(work: Callable[[], object]) -> float:
    """Median over some repeats, the first of which does not count."""
    taken = []
    for _ in range(REPEATS + 1):
        started = perf_counter()
        work()
        taken.append(perf_counter() - started)
    return median(taken[1:])


def ragged_turns(num_turns: int) -> Turns:
    """Groups of trajectories of 1 to `MAX_TURNS` turns, some correct, some with format errors."""
    random = torch.Generator().manual_seed(0)
    num_trajectories = num_turns * 2 // (MAX_TURNS + 1) // GROUP_SIZE * GROUP_SIZE
    lengths_G = torch.randint(1, MAX_TURNS + 1, (num_trajectories,), generator=random)
    trajectory_index_K = torch.arange(num_trajectories).repeat_interleave(lengths_G)
    starts_G = lengths_G.cumsum(0) - lengths_G
    outcomes_G = torch.randint(0, 2, (num_trajectories,), generator=random).double()
    rewards_K = -0.1 * torch.randint(0, 2, trajectory_index_K.shape, generator=random).double()
    rewards_K[starts_G + lengths_G - 1] += outcomes_G
    return Turns(
        rewards_K=rewards_K,
        outcomes_G=outcomes_G,
        num_tokens_K=torch.randint(1, 200, trajectory_index_K.shape, generator=random),
        turn_index_K=torch.arange(trajectory_index_K.numel()) - starts_G[trajectory_index_K],
        trajectory_index_K=trajectory_index_K,
        group_index_G=torch.arange(num_trajectories) // GROUP_SIZE,
        has_equal_outcomes_G=torch.zeros(num_trajectories, dtype=torch.bool),
    )


def scored_groups(turns: Turns) -> list[ScoredGroup]:
    """The same turns as trajectories of groups, without anything in them that an estimator does not read."""
    rows: list[list[float]] = [[] for _ in range(turns.num_trajectories)]
    for trajectory, reward in zip(turns.trajectory_index_K.tolist(), turns.rewards_K.tolist(), strict=True):
        rows[trajectory].append(reward)
    problem = Problem(id="p", prompt=(Message(role="user", content="?"),), answer="1", source="made up")
    groups = []
    for start in range(0, len(rows), GROUP_SIZE):
        rewards = tuple(tuple(row) for row in rows[start : start + GROUP_SIZE])
        trajectories = tuple(
            Trajectory(
                problem_id="p",
                sample_index=sample,
                token_ids=(0,) * (2 * len(row) + 1),
                turns=tuple(turn(2 * k + 1) for k in range(len(row))),
                stop_reason=StopReason.answered,
            )
            for sample, row in enumerate(rewards)
        )
        groups.append(
            ScoredGroup(
                group=Group(problem=problem, trajectories=trajectories),
                turn_rewards_GK=rewards,
                terms={"accuracy": rewards},
                correct_G=tuple(row[-1] > 0.5 for row in rewards),
                outcome_terms=("accuracy",),
            )
        )
    return groups


def turn(place: int) -> Turn:
    """One sampled token."""
    return Turn(
        span=(place, place + 1),
        behaviour_logprobs=(-0.5,),
        text="",
        tool_calls=(),
        tool_result=None,
        finish_reason=FinishReason.stop,
        policy_version=0,
    )


def plain_loop(turns: Turns) -> list[float]:
    """GTPO's advantage (arXiv 2511.14846, pool `group`) as one writes it down: a loop over groups and trajectories."""
    default = TurnReturnAdvantage()
    rows: list[list[float]] = [[] for _ in range(turns.num_trajectories)]
    for trajectory, reward in zip(turns.trajectory_index_K.tolist(), turns.rewards_K.tolist(), strict=True):
        rows[trajectory].append(reward)
    advantages: list[float] = []
    for start in range(0, len(rows), GROUP_SIZE):
        returns = []
        for rewards in rows[start : start + GROUP_SIZE]:
            total, backwards = 0.0, []
            for reward in reversed(rewards):
                total = reward + default.discount * total
                backwards.append(total)
            returns += reversed(backwards)
        mean = sum(returns) / len(returns)
        std = sqrt(sum((value - mean) ** 2 for value in returns) / len(returns))
        advantages += [(value - mean) / (std + default.eps) for value in returns]
    return advantages
