"""The turns of a step as flat tensors: what an advantage is computed from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from turnwise.core.segments import segment_sum


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """All turns of all trajectories of a step, end to end; trajectories of a group lie together.

    K runs over the turns of the step, G over its trajectories.

    Attributes:
        rewards_K: Reward of each turn, float64.
        outcomes_G: The part of each trajectory's reward that judges it as a whole, float64; the reward of its last turn
            contains it.
        num_tokens_K: Sampled tokens of each turn, int64.
        turn_index_K: Place of each turn in its trajectory, int64 from 0.
        trajectory_index_K: Trajectory of each turn, int64 in `[0, G)`, non-decreasing.
        group_index_G: Group of each trajectory, int64, non-decreasing.
        has_equal_outcomes_G: Whether the trajectories of its group are all correct or all wrong, bool.
    """

    rewards_K: Tensor
    outcomes_G: Tensor
    num_tokens_K: Tensor
    turn_index_K: Tensor
    trajectory_index_K: Tensor
    group_index_G: Tensor
    has_equal_outcomes_G: Tensor

    def __post_init__(self) -> None:
        num_turns, num_trajectories = self.rewards_K.numel(), self.group_index_G.numel()
        for name in self.__slots__:
            tensor, length = getattr(self, name), num_turns if name.endswith("_K") else num_trajectories
            if tensor.shape != (length,):
                raise ValueError(f"Turns.{name} has shape {tuple(tensor.shape)}, expected ({length},)")

    @property
    def num_trajectories(self) -> int:
        """G."""
        return self.group_index_G.numel()

    @property
    def group_index_K(self) -> Tensor:
        """Group of each turn, int64."""
        return self.group_index_G[self.trajectory_index_K]

    @property
    def rewards_G(self) -> Tensor:
        """Reward of each trajectory, float64: the sum of its turn rewards, not discounted."""
        return segment_sum(self.rewards_K, self.trajectory_index_K, self.num_trajectories)

    @property
    def process_rewards_K(self) -> Tensor:
        """Reward of each turn for itself, float64: on the last turn of a trajectory without the outcome."""
        after_the_end = self.trajectory_index_K.new_tensor([-1])
        is_last_K = self.trajectory_index_K.diff(append=after_the_end) != 0
        return self.rewards_K - torch.where(is_last_K, self.outcomes_G[self.trajectory_index_K], 0)

    @property
    def num_tokens_G(self) -> Tensor:
        """Sampled tokens of each trajectory, int64."""
        return segment_sum(self.num_tokens_K, self.trajectory_index_K, self.num_trajectories)
