"""How a step's credit lies on its turns."""

from collections.abc import Sequence

from turnwise.advantage.ragged import flatten, unflatten
from turnwise.core.returns import discounted_returns
from turnwise.types import ScoredGroup


def turn_returns(scored_groups: Sequence[ScoredGroup], discount: float) -> list[list[list[float]]]:
    """Return of every turn, `[P][G][K]`: `R_j = sum_{m >= j} discount^(m - j) r_m`; 0 in excluded trajectories."""
    turns = flatten(scored_groups)
    return unflatten(discounted_returns(turns.rewards_K, turns.trajectory_index_K, discount), scored_groups)
