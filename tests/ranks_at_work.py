"""What each rank does in the tests of several: functions that a new process can import."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from builders import group, problem, trajectory
from tiny_models import PolicyGradientLoss, small_model, small_policy, token_batch
from turnwise import checkpoint
from turnwise.model.sharding import Sharding, make_mesh
from turnwise.ranks import Ranks
from turnwise.rollout.divided import DividedSampler, RankFailed
from turnwise.rollout.sampler import Rollout
from turnwise.types import Group, Isolation, Problem, TokenBatch

# Prompts of 2 and 3 tokens that siblings share, tool tokens (mask 0) between sampled ones, unequal lengths.
SEQUENCES = (
    ((20, 21, 22, 23), (0, 0, 1, 1)),
    ((20, 21, 25, 26, 27, 28, 29), (0, 0, 1, 0, 0, 1, 1)),
    ((40, 41), (0, 1)),
    ((50, 51, 52, 53, 54, 55, 56), (0, 0, 0, 0, 1, 1, 1)),
    ((50, 51, 52, 60, 61), (0, 0, 0, 1, 1)),
)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cut": {"token_budget": 6, "gradient_checkpointing": True, "max_grad_norm": 1.0},
    "several steps": {"num_minibatches": 2, "num_epochs": 2, "weight_decay": 0.1},
}
"""Policies by how their update differs."""
NUM_UPDATES = 3
Trained = tuple[list[dict[str, float]], Tensor, dict[str, Tensor]]
"""Figures of each update, log-probs that the last one found, weights after it."""


class NoCursor:
    """A task's place where there is none."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Nothing to put back."""


def batch() -> TokenBatch:
    return token_batch(SEQUENCES)


def sharded_policy(ranks: Ranks, shard_size: int = 0, **settings: Any) -> Any:
    """The policy of `small_policy`, dealt out."""
    mesh = make_mesh("cpu", ranks.count, shard_size)
    sharding = Sharding(mesh=mesh, device=torch.device("cpu"), dtype=torch.float32)
    return small_policy(ranks=ranks, sharding=sharding, **settings)


def updates(policy: Any, num_updates: int = NUM_UPDATES) -> Trained:
    figures, logprobs_N = [], torch.zeros(0)
    for _ in range(num_updates):
        metrics, logprobs_N = policy.update(batch(), PolicyGradientLoss())
        figures.append({name: value for name, value in metrics.items() if not name.startswith("time/")})
    return figures, logprobs_N, {name: tensor.clone() for name, tensor in policy.weights().items()}


def train_each_way(ranks: Ranks) -> dict[str, Trained]:
    """Every policy of `SETTINGS`; with four ranks also one of two replicas, and one with a reference policy."""
    found = {name: updates(sharded_policy(ranks, **settings)) for name, settings in SETTINGS.items()}
    if ranks.count == 4:
        found["replicas"] = updates(sharded_policy(ranks, shard_size=2))
    found["reference"] = updates(sharded_policy(ranks, reference=small_model(seed=5)))
    return found


def train_and_save(ranks: Ranks, folder: str) -> None:
    """Two updates, then a checkpoint."""
    policy = sharded_policy(ranks)
    updates(policy, 2)
    checkpoint.save(Path(folder), 2, policy=policy, task=NoCursor(), keep=1, ranks=ranks)


def train_each_way_and_go_on(ranks: Ranks, folder: str) -> tuple[dict[str, Trained], Trained]:
    """As `train_each_way`, and the third update after the checkpoint in `folder`."""
    found = train_each_way(ranks)
    policy = sharded_policy(ranks)
    checkpoint.restore(Path(folder) / "step_2", policy, NoCursor())
    return found, updates(policy, 1)


def fail_in_the_loss(ranks: Ranks) -> str:
    """A loss that is not finite on whichever rank has the sequence of two tokens; what each of them hears."""

    class Broken(PolicyGradientLoss):
        def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> Any:
            is_bad = bool((batch.token_ids == 41).any())
            return super().__call__(policy_logprobs_N * (torch.nan if is_bad else 1), batch, entropy_N)

    try:
        sharded_policy(ranks).update(batch(), Broken())
    except FloatingPointError as error:
        return str(error)
    return "no error"


@dataclass
class MadeUpSampler:
    """A group of one trajectory for each problem it is asked for; `bad` fails, `slow` waits until it is cancelled."""

    isolation = Isolation.unsafe

    async def sample(self, problems: Sequence[Problem], **settings: Any) -> Rollout:
        groups: list[Group] = []
        for one in problems:
            if one.id == "bad":
                raise OSError("the sandbox is gone")
            if one.id == "slow":
                await asyncio.sleep(3600)
            groups.append(group(trajectory(problem_id=one.id), id=one.id))
        return Rollout(groups=groups, wall_s=1.0, tool_s=0.25 * len(problems))


def sample_together(ranks: Ranks) -> dict[str, Any]:
    """What a rank gets from calls that succeed, fail on the last rank, and are stopped on the first."""
    sampler = DividedSampler(MadeUpSampler(), ranks)

    async def ids(*names: str) -> list[str]:
        rollout = await sampler.sample([problem(id=name) for name in names], group_size=1, temperature=1.0, seed=0)
        return [one.problem.id for one in rollout.groups]

    async def run() -> dict[str, Any]:
        found: dict[str, Any] = {"all": await ids("a", "b", "c", "d"), "few": await ids("a"), "none": await ids()}
        try:
            await ids("a", "b", "c", "bad")
        except (OSError, RankFailed) as error:
            found["failure"] = f"{type(error).__name__}: {error}"
        found["after a failure"] = await ids("a", "b")
        if ranks.is_first:
            asyncio.get_running_loop().call_later(0.3, sampler.stop)
        try:
            await ids("slow", "b", "c", "d")
        except asyncio.CancelledError:
            found["stopped"] = True
        return found

    return asyncio.run(run())
