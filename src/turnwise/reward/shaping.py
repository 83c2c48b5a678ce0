"""Shaping: wrong trajectories earn a part of the reward for code that resembles a correct sibling's."""

from collections.abc import Sequence
from statistics import fmean

from turnwise.protocols import Similarity
from turnwise.types import Trajectory


def shaping_bonus_G(
    trajectories: Sequence[Trajectory], correct_G: Sequence[bool], similarity: Similarity, weight: float
) -> tuple[float, ...]:
    """What stands in place of r_acc = 0 on the last turn of each wrong trajectory.

    bonus_i = weight * mean_{p in P} max(0, sim(code_i, code_p)), P the correct trajectories of the group
    (GTPO, arXiv 2511.14846; PAPER.md section 5, [3]). The mean already divides by |P|; nothing else does.

    Args:
        trajectories: The G trajectories of one group.
        correct_G: Which of them are correct; an excluded one never is, a trajectory cut at a limit neither.
        similarity: Likeness of two programs; negative values count as 0 [O].
        weight: Reward of a wrong trajectory whose code equals that of every correct one (alpha); 0 compares nothing.

    Returns:
        G numbers in [0, weight]; 0 for correct and excluded trajectories, without code, and without peers.
    """
    peers = [trajectory.code for trajectory, correct in zip(trajectories, correct_G, strict=True) if correct]

    def bonus(trajectory: Trajectory, correct: bool) -> float:
        if weight == 0 or correct or not peers or trajectory.is_excluded or not (code := trajectory.code).strip():
            return 0.0
        return weight * fmean(max(0.0, similarity(code, peer)) for peer in peers)

    return tuple(bonus(trajectory, correct) for trajectory, correct in zip(trajectories, correct_G, strict=True))
