"""Shaping: wrong trajectories earn a part of the reward for code that resembles a correct sibling's."""

from collections.abc import Sequence
from statistics import fmean

from turnwise.protocols import Similarity
from turnwise.types import Peers, Trajectory


def shaping_peers_G(
    trajectories: Sequence[Trajectory], correct_G: Sequence[bool], similarity: Similarity
) -> tuple[Peers, ...]:
    """The correct siblings P that each wrong trajectory is compared with, and how alike their code is.

    Args:
        trajectories: The G trajectories of one group.
        correct_G: Which of them are correct; an excluded one never is, a trajectory cut at a limit neither.
        similarity: Likeness of two programs; negative values count as 0 [O].

    Returns:
        For each trajectory pairs of a sibling's place in the group and the similarity in [0, 1]; none for correct and
        excluded trajectories, without code, and without a correct sibling.
    """
    correct = [(place, one.code) for place, one in enumerate(trajectories) if correct_G[place]]

    def peers(trajectory: Trajectory, is_correct: bool) -> Peers:
        if is_correct or not correct or trajectory.is_excluded or not (code := trajectory.code).strip():
            return ()
        return tuple((place, max(0.0, similarity(code, peer))) for place, peer in correct)

    return tuple(peers(trajectory, is_correct) for trajectory, is_correct in zip(trajectories, correct_G, strict=True))


def shaping_bonus_G(peers_G: Sequence[Peers], weight: float) -> tuple[float, ...]:
    """What stands in place of r_acc = 0 on the last turn of each wrong trajectory.

    bonus_i = weight * mean_{p in P} sim(code_i, code_p), P the correct trajectories of the group
    (GTPO, arXiv 2511.14846; PAPER.md section 5, [3]). The mean already divides by |P|; nothing else does.

    Args:
        peers_G: What `shaping_peers_G` found.
        weight: Reward of a wrong trajectory whose code equals that of every correct one (alpha).

    Returns:
        G numbers in [0, weight]; 0 for a trajectory that was compared with none.
    """
    return tuple(weight * fmean(likeness for _, likeness in peers) if peers else 0.0 for peers in peers_G)
