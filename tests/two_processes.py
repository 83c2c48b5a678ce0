"""Half of a step in each of two real processes, their gradients added up: what data parallelism does."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ragged_steps import off_policy, ragged_step, updated
from turnwise.advantage.turn_return import TurnReturnAdvantage
from turnwise.loss.clipped import ClippedLoss
from turnwise.rollout.packing import pack
from turnwise.types import TokenBatch


def whole_step() -> TokenBatch:
    """Nine trajectories, so that the halves are unequal."""
    groups = ragged_step(seed=11, num_groups=3, group_size=4, num_excluded=1)
    return off_policy(pack(groups, TurnReturnAdvantage()(groups), temperature=0.9))


def half_step(rank: int, folder: str, fields: dict[str, Any]) -> None:
    """Trains on every second trajectory from `rank` on, sums the gradients of both processes; rank 0 writes them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    batch = whole_step()
    mine = batch.select(range(rank, batch.num_sequences, 2))
    gradient = updated(mine, ClippedLoss(**fields), has_entropy_gradient=True).gradient
    for name in sorted(gradient):
        dist.all_reduce(gradient[name])
    if rank == 0:
        torch.save(gradient, Path(folder) / "gradient.pt")
    dist.destroy_process_group()
