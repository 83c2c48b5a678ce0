"""Half of a step in each of two real processes, their gradients added up: what data parallelism does."""

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from ragged_steps import off_policy, ragged_step, updated
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.loss.clipped import ClippedLoss
from turnwise.ranks import Ranks
from turnwise.rollout.packing import pack
from turnwise.types import TokenBatch


def whole_step() -> TokenBatch:
    """Nine trajectories, so that the halves are unequal."""
    groups = ragged_step(seed=11, num_groups=3, group_size=4, num_excluded=1)
    return off_policy(pack(groups, TurnReturnAdvantage()(groups), temperature=0.9))


def half_steps(ranks: Ranks, losses: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """The gradient of each loss, summed over processes that each train on every second trajectory."""
    batch = whole_step()
    mine = batch.select(range(ranks.index, batch.num_sequences, ranks.count))
    found = []
    for fields in losses:
        gradient = updated(mine, ClippedLoss(**fields), has_entropy_gradient=True).gradient
        for name in sorted(gradient):
            dist.all_reduce(gradient[name])
        found.append(gradient)
    return found
