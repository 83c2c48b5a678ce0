"""What each rank does in the tests of several: functions that a new process can import."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from builders import group, problem, trajectory
from tiny_models import PolicyGradientLoss, small_model, small_policy, token_batch
from turnwise import checkpoint
from turnwise.config.checks import find_checkpoint
from turnwise.config.errors import ConfigError
from turnwise.loss.clipped import ClippedLoss
from turnwise.model.sharding import Sharding, make_mesh
from turnwise.protocols import PolicyLoss
from turnwise.ranks import RankFailed, RankLost, Ranks, noticing_loss
from turnwise.reward.outcome import OutcomeReward
from turnwise.rollout.divided import DividedSampler
from turnwise.rollout.sampler import Rollout
from turnwise.rollout.scoring import score
from turnwise.types import Group, Isolation, Problem, ScoredGroup, TokenBatch

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
    "adapter": {"lora_rank": 4, "gradient_checkpointing": True},
    "half": {"dtype": torch.bfloat16, "learning_rate": 1e-3},
}
"""Policies by how their update differs."""
IN_HALF = ("half", "half adapter")
"""Those whose passes are in bfloat16."""
SAVED = ("plain", "adapter")
"""Those that are saved and gone on with."""
NUM_UPDATES = 3
Trained = tuple[list[dict[str, float]], Tensor, dict[str, Tensor]]
"""Figures of each update, log-probs that the last one found, weights after it."""


def find_checkpoints(ranks: Ranks, root: str) -> list[str]:
    """What each rank hears of the checkpoints below `root`/<its number>, by the same relative path."""
    os.chdir(Path(root) / str(ranks.index))
    heard = []
    with patch("turnwise.config.errors.current", lambda: ranks):
        for name in ("none", "same", "missing", "differing", "damaged"):
            try:
                heard.append(str(find_checkpoint(Path(name), ranks)))
            except ConfigError as error:
                heard.append(str(error))
    return heard


class NoCursor:
    """A task's place where there is none."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Nothing to put back."""


def batch() -> TokenBatch:
    return token_batch(SEQUENCES)


def sharded_policy(ranks: Ranks, shard_size: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """The policy of `small_policy`, dealt out."""
    mesh = make_mesh("cpu", ranks.count, shard_size)
    sharding = Sharding(mesh=mesh, device=torch.device("cpu"), dtype=dtype)
    return small_policy(ranks=ranks, sharding=sharding, dtype=dtype, **settings)


def updates(
    policy: Any, num_updates: int = NUM_UPDATES, given: TokenBatch | None = None, loss: PolicyLoss | None = None
) -> Trained:
    figures, logprobs_N = [], torch.zeros(0)
    for _ in range(num_updates):
        metrics, logprobs_N = policy.update(given or batch(), loss or PolicyGradientLoss())
        figures.append({name: value for name, value in metrics.items() if not name.startswith("time/")})
    return figures, logprobs_N, {name: tensor.clone() for name, tensor in policy.weights().items()}


def train_each_way(ranks: Ranks | None) -> dict[str, Trained]:
    """Every policy of `SETTINGS`, and some more; with four ranks also one of two replicas. In one process for None."""

    def policy(**settings: Any) -> Any:
        return small_policy(**settings) if ranks is None else sharded_policy(ranks, **settings)

    found = {name: updates(policy(**settings)) for name, settings in SETTINGS.items()}
    # With two sequences of one prompt, some of four ranks have nothing to pass over the head but its weights.
    untied = policy(model=small_model(tie_word_embeddings=False))
    found["untied"] = updates(untied, given=batch().select([0, 1]).counted())
    # Under an adapter what never changes is in half precision too.
    found["half adapter"] = updates(policy(model=small_model().bfloat16(), **SETTINGS["half"], lora_rank=4))
    kl = ClippedLoss(kl_weight=0.1, entropy_weight=0.1)
    found["reference"] = updates(policy(reference=small_model(seed=5), has_entropy_gradient=True), loss=kl)
    found["nothing"] = updates(policy(), given=batch().select([]).counted())
    if ranks is not None and ranks.count == 4:
        found["replicas"] = updates(policy(shard_size=2))
        found["adapter replicas"] = updates(policy(shard_size=2, **SETTINGS["adapter"]))
    return found


def train_and_save(ranks: Ranks, folder: str) -> None:
    """Two updates, then a checkpoint in `folder`/<name>."""
    for name in SAVED:
        policy = sharded_policy(ranks, **SETTINGS[name])
        updates(policy, 2)
        checkpoint.save(Path(folder) / name, 2, policy=policy, task=NoCursor(), keep=1, ranks=ranks)


def train_each_way_and_go_on(
    ranks: Ranks, folder: str, own: str
) -> tuple[dict[str, Trained], dict[str, Trained], Trained, list[str]]:
    """As `train_each_way`; and what follows on the checkpoints in `folder`, and on one before the first step in `own`.

    Last, what is said where a checkpoint is of another model, and of another adapter.
    """
    found, gone_on = train_each_way(ranks), dict[str, Trained]()
    for name in SAVED:
        policy = sharded_policy(ranks, **SETTINGS[name])
        checkpoint.restore(Path(folder) / name / "step_2", policy, NoCursor())
        gone_on[name] = updates(policy, 1)
    checkpoint.save(Path(own), 0, policy=sharded_policy(ranks), task=NoCursor(), keep=1, ranks=ranks)
    policy = sharded_policy(ranks)
    updates(policy, 1)  # which goes back, as a run does that is to take another way
    checkpoint.restore(Path(own) / "step_0", policy, NoCursor())
    from_nothing = updates(policy)
    refusals = []
    wider, adapted = {"model": small_model(intermediate_size=64)}, {"lora_rank": 2}
    others: list[tuple[str, dict[str, Any]]] = [("plain", wider), ("adapter", adapted), ("plain", adapted)]
    for name, settings in others:
        try:
            checkpoint.restore(Path(folder) / name / "step_2", sharded_policy(ranks, **settings), NoCursor())
        except ValueError as error:
            refusals.append(str(error))
    return found, gone_on, from_nothing, refusals


def run_out_of_memory(ranks: Ranks) -> str:
    """The first pass of an update has no memory; what becomes of it."""

    class Hungry(PolicyGradientLoss):
        def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> Any:
            raise torch.OutOfMemoryError("no memory")

    try:
        sharded_policy(ranks).update(batch(), Hungry())
    except torch.OutOfMemoryError as error:
        return str(error)
    return "no error"


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
            if one.id == "nan":
                raise FloatingPointError("the logits are not finite")
            if one.id == "slow":
                await asyncio.sleep(3600)
            groups.append(group(trajectory(problem_id=one.id), id=one.id))
        return Rollout(groups=groups, wall_s=1.0, tool_s=0.25 * len(problems))


def score_together(ranks: Ranks) -> str:
    """What a rank hears where the reward fails on the second."""

    def reward(group: Group) -> ScoredGroup:
        if ranks.index == 1:
            raise ValueError("no verdict")
        return OutcomeReward()(group)

    try:
        score([group(trajectory(problem_id=name), id=name) for name in "ab"], reward, ranks)
    except (ValueError, RankFailed) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


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
        try:
            await ids("a", "b", "c", "nan")
        except FloatingPointError as error:
            found["not finite"] = str(error)
        found["after a failure"] = await ids("a", "b")
        if ranks.is_first:
            asyncio.get_running_loop().call_later(0.3, sampler.told.stop)
        beside = DividedSampler(MadeUpSampler(), ranks, sampler.told)  # as that of the arm without the tool
        try:
            slow = [problem(id=name) for name in ("slow", "b", "c", "d")]
            await beside.sample(slow, group_size=1, temperature=1.0, seed=0)
        except asyncio.CancelledError:
            found["stopped"] = True
        found["score"] = score_together(ranks)
        return found

    return asyncio.run(run())


def outlive(ranks: Ranks, folder: str) -> None:
    """Writes down what each rank hears of work that fails on the first, and then of the end of the second."""
    heard = Path(folder) / f"heard-{ranks.index}"
    with heard.open("w") as file:
        try:
            ranks.by_first(_fail)
        except (OSError, RankFailed) as error:
            print(f"{type(error).__name__}: {error}", file=file, flush=True)
        if not ranks.is_first:
            os._exit(0)
        try:
            with noticing_loss(lambda: "go on"):
                ranks.wait()
        except RankLost as error:
            print(f"{type(error).__name__}: {error}", file=file)


def _fail() -> None:
    raise OSError("no space")
