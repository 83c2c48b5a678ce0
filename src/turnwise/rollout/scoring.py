"""r[i, j] of a step's groups, each of them scored on one rank only."""

from collections.abc import Sequence

from turnwise.protocols import Reward
from turnwise.ranks import ALONE, Ranks
from turnwise.types import Group, ScoredGroup
from turnwise.watchdog import Work, under_way


def score(groups: Sequence[Group], reward: Reward, ranks: Ranks = ALONE) -> list[ScoredGroup]:
    """Scores every group, in order; with several ranks each scores its share and all get all verdicts.

    So no rank ever trains on other rewards than its neighbours, even where a verdict depends on a clock, as that of an
    answer does whose grading runs into a limit.
    """

    def verdict(group: Group) -> ScoredGroup:
        with under_way(Work.reward):
            return reward(group)

    shares = ranks.together(lambda: [verdict(group) for group in groups[ranks.share(len(groups))]])
    return [scored for share in shares for scored in share]
