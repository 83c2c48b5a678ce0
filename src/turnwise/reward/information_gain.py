"""IGPO's reward: what each turn adds to the probability of the gold answer."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

from turnwise.protocols import Similarity
from turnwise.reward.format import FormatRule
from turnwise.reward.grading import Grader
from turnwise.reward.overlong import OverlongPenalty
from turnwise.reward.similarity.lexical import LexicalSimilarity
from turnwise.reward.terms import Rows, check_reward_fields, grade_G, scored_group, turn_terms
from turnwise.types import Group, ScoredGroup, Trajectory


@dataclass(frozen=True, kw_only=True)
class GoldAnswer:
    """How the policy is asked for the gold answer when a turn begins: the turn is taken to end the trajectory."""

    prefix: str = "The answer is \\boxed{"
    """What stands between the transcript and the gold answer; write it as this policy introduces its answers."""
    max_tokens: int = 64
    """Tokens of the gold answer that are scored; of a longer answer, the first ones."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens}: expected >= 1")


@dataclass(frozen=True, kw_only=True)
class InformationGainReward:
    """Reward of each turn: its information gain; the outcome on the last turn (IGPO, arXiv 2510.14967).

        r[i,j] = weight * (p[i,j+1] - p[i,j])  for j < K,    r[i,K] = outcome[i]
        p[i,j] = exp(mean log pi(gold answer's tokens | transcript up to where turn j began))

    p is the geometric mean of the probabilities of the answer's tokens under the policy that sampled the trajectory, so
    the gains of a trajectory add up to p[i,K] - p[i,1]. The outcome and its format rule are those of `TurnLevelReward`;
    its default, the gate, stands for the format check of the paper, whose outcome is negative after an error [O].

    The scored group's terms are `information`, `accuracy`, `shaping`, `format` and, where it is in use, `overlong`.
    Excluded trajectories get zeros and are no peers for shaping.

    Raises:
        ValueError: When called with a trajectory that holds no `gold_logprobs`.
    """

    information_weight: float = 1.0
    """Factor of the information gain; 0 leaves the outcome alone."""
    gold: GoldAnswer = field(default_factory=GoldAnswer)
    """How the policy is asked for the gold answer."""
    format_rule: FormatRule = FormatRule.gate
    """What a format error does: `gate` makes the outcome 0, `additive` costs a penalty on its turn."""
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

    def __post_init__(self) -> None:
        check_reward_fields(self.format_penalty, self.shaping_weight)
        if not 0 <= self.information_weight < math.inf:
            raise ValueError(f"information_weight={self.information_weight}: expected a finite number >= 0")

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
        information: Rows = tuple(self._information_K(trajectory) for trajectory in group.trajectories)
        terms = {"information": information, **terms}
        return scored_group(group, terms, correct_G, self.format_rule, peers_G)

    def _information_K(self, trajectory: Trajectory) -> tuple[float, ...]:
        """The weighted gain of each turn in the probability of the gold answer; 0 for the last turn."""
        if trajectory.is_excluded:
            return (0.0,) * len(trajectory.turns)
        if trajectory.gold_logprobs is None:
            raise ValueError(
                f"trajectory {trajectory.problem_id!r}/{trajectory.sample_index} has no gold_logprobs: the information "
                f"gain needs the gold answer's log-probs from the policy that sampled it; only training with "
                f"reward=information_gain asks for them and leaves them in its bundles"
            )
        p_K = [math.exp(logprob) for logprob in trajectory.gold_logprobs]
        gains = (self.information_weight * (after - before) for before, after in pairwise(p_K))
        return (*(0.0 + gain for gain in gains), 0.0)  # 0.0 + turns -0.0 into 0.0
