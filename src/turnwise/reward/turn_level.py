"""GTPO's reward: one number per turn."""

from dataclasses import dataclass, field
from typing import ClassVar

from turnwise.protocols import Similarity
from turnwise.reward.format import FormatRule
from turnwise.reward.grading import Grader
from turnwise.reward.overlong import OverlongPenalty
from turnwise.reward.similarity.lexical import LexicalSimilarity
from turnwise.reward.terms import check_reward_fields, grade_G, scored_group, turn_terms
from turnwise.types import Group, ScoredGroup


@dataclass(frozen=True, kw_only=True)
class TurnLevelReward:
    """Reward of each turn, r[i,j] = r_acc[i,j] + r_format[i,j] (GTPO, arXiv 2511.14846; PAPER.md section 2, [R, 3]).

    r_acc is 1 on the last turn of a correct trajectory and 0 elsewhere; r_format is `-format_penalty` on a turn that
    holds a malformed tool call, and on a first turn that holds no tool call. With `format_rule=gate` there is no
    penalty: instead the last turn gets 0 if any turn of the trajectory has a format error.

    The scored group's terms are `accuracy`, `shaping`, `format` and, where it is in use, `overlong`; under the gate
    `format` is what the gate takes away. Excluded trajectories get zeros and are no peers for shaping.
    """

    format_rule: FormatRule = FormatRule.additive
    """What a format error does: `additive` costs a penalty on its turn, `gate` makes the outcome 0."""
    format_penalty: float = 0.1
    """Subtracted from the reward of a turn with a format error, once a turn; only `additive` uses it."""
    overlong: OverlongPenalty = field(default_factory=OverlongPenalty)
    """What length costs."""
    shaping: bool = False
    """Whether a wrong trajectory earns a part of the reward for code that resembles a correct sibling's."""
    shaping_weight: float = 0.5
    """Reward of a wrong trajectory with the very code of the correct ones (alpha)."""
    similarity: Similarity = field(default_factory=LexicalSimilarity)
    """Likeness of two programs."""
    grader: Grader = field(default_factory=Grader)
    """Decides whether an answer equals the gold answer."""

    gold: ClassVar[None] = None
    """It asks the policy nothing."""

    def __post_init__(self) -> None:
        check_reward_fields(self.format_penalty, self.shaping_weight)

    def __call__(self, group: Group) -> ScoredGroup:
        """Scores every turn of every trajectory of `group`."""
        correct_G = grade_G(group, self.grader)
        terms, peers_G = turn_terms(
            group,
            correct_G,
            format_rule=self.format_rule,
            format_penalty=self.format_penalty,
            overlong=self.overlong,
            similarity=self.similarity,
            shaping_weight=self.shaping_weight if self.shaping else 0.0,
        )
        return scored_group(group, terms, correct_G, self.format_rule, peers_G)
