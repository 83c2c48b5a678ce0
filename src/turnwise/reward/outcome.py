"""GRPO's reward: one number per trajectory."""

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
class OutcomeReward:
    """Reward of each trajectory, on its last turn: r[i] = min(r_acc[i], r_format[i]) (PAPER.md section 2, [R]).

    r_acc is 1 if the answer is correct; r_format is 0 if any turn has a format error (a malformed tool call, or no
    tool call in the first turn), else 1. With `format_rule=additive` the penalties of all turns are added on the last
    turn instead. Both rules are those of `TurnLevelReward` with every turn's terms moved to the last turn, so that the
    two rewards differ in nothing but the level of credit.

    The scored group's terms are `accuracy`, `shaping`, `format` and, where it is in use, `overlong`; under the gate
    `format` is what the gate takes away. Excluded trajectories get zeros and are no peers for shaping.
    """

    format_rule: FormatRule = FormatRule.gate
    """What a format error does: `gate` makes the outcome 0, `additive` costs a penalty."""
    format_penalty: float = 0.1
    """Subtracted once for each turn with a format error; only `additive` uses it."""
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
        """Scores every trajectory of `group`."""
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
        on_last_turn = {name: tuple(_on_last(row_K) for row_K in rows_GK) for name, rows_GK in terms.items()}
        return scored_group(group, on_last_turn, correct_G, self.format_rule, peers_G)


def _on_last(row_K: tuple[float, ...]) -> tuple[float, ...]:
    return (*(0.0 for _ in row_K[1:]), sum(row_K)) if row_K else ()
