"""What a run is made of before anything starts: what the configuration needs to know of each part, and all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from turnwise.core.correction import Correction
from turnwise.env.opening import Opening
from turnwise.env.tool_format import ToolFormat
from turnwise.evaluation.settings import EvaluationSettings
from turnwise.health_settings import HealthSettings
from turnwise.model.causal_lm import CausalLM
from turnwise.protocols import (
    AdvantageEstimator,
    EnvironmentPool,
    PolicyLoss,
    Reward,
    RolloutEngine,
    Similarity,
    Task,
    Tracker,
)
from turnwise.reward.grading import Grader
from turnwise.reward.information_gain import GoldAnswer
from turnwise.reward.overlong import OverlongPenalty
from turnwise.rollout.sampler import RolloutSettings
from turnwise.trainer_settings import TrainerSettings
from turnwise.warmstart.settings import WarmStartSettings


class ShapedReward(Reward, Protocol):
    """A reward whose shaping can be switched on."""

    @property
    def shaping(self) -> bool:
        """Whether a wrong trajectory earns something for code that resembles a correct sibling's."""
        ...

    @property
    def grader(self) -> Grader:
        """What decides whether an answer is right."""
        ...

    @property
    def similarity(self) -> Similarity:
        """What programs are compared with."""
        ...

    @property
    def overlong(self) -> OverlongPenalty:
        """What length costs."""
        ...

    @property
    def gold(self) -> GoldAnswer | None:
        """How the policy is asked for the gold answer; None where the reward does not need to know."""
        ...


class RegularisedLoss(PolicyLoss, Protocol):
    """A loss that says which of its terms need more of the policy than the log-probs of the sampled tokens."""

    @property
    def kl_weight(self) -> float:
        """Weight of the divergence from a reference policy; above 0 one is loaded."""
        ...

    @property
    def correction(self) -> Correction:
        """What makes up for a sampler that is not quite the policy that is trained."""
        ...

    @property
    def entropy_weight(self) -> float:
        """Weight of the entropy bonus; above 0 the entropies carry a gradient."""
        ...


class EngineSettings(Protocol):
    """An engine before it starts."""

    def start(self, model: nn.Module, stop_token_ids: frozenset[int], *, max_tokens: int) -> RolloutEngine:
        """Takes `model` over, the engine's own copy of the policy; the caller closes the engine.

        Raises:
            ValueError: The engine cannot run the model, or has no room for a trajectory of `max_tokens` tokens.
        """
        ...


class EnvironmentSettings(Opening, Protocol):
    """An environment before it starts; how its episodes begin is known already."""

    @property
    def tool_language(self) -> str | None:
        """What calls of its tool are written in; None where there is no tool."""
        ...

    @property
    def tool_format(self) -> ToolFormat | None:
        """How they are written; None where there is no tool."""
        ...

    def start(self) -> EnvironmentPool:
        """What makes the episodes; the caller closes it."""
        ...


class TaskSettings(Protocol):
    """A task before it starts."""

    @property
    def tool_language(self) -> str | None:
        """What calls are written in by those who can solve its problems; None where any tool may serve."""
        ...

    @property
    def has_train(self) -> bool:
        """Whether there is anything to train on; a set of benchmarks may be there to be evaluated on alone."""
        ...

    def start(self, seed: int) -> Task:
        """The live task; `seed` orders its train split."""
        ...


class TrackerSettings(Protocol):
    """A tracker before it starts."""

    def start(self, run_dir: Path, *, first_step: int, label: str, config: Mapping[str, Any]) -> Tracker:
        """The live tracker of a run that goes on at `first_step`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Components:
    """Every part of a run, still without a life: nothing is loaded, opened or started."""

    seed: int
    label: str
    config: Mapping[str, Any]
    """The resolved configuration as plain values, for the record."""
    model: CausalLM
    engine: EngineSettings
    env: EnvironmentSettings
    reward: ShapedReward
    advantage: AdvantageEstimator
    loss: RegularisedLoss
    task: TaskSettings
    rollout: RolloutSettings
    evaluation: EvaluationSettings
    warmstart: WarmStartSettings
    trainer: TrainerSettings
    health: HealthSettings
    tracker: TrackerSettings


class Mode(Protocol):
    """What to do with the components: a frozen dataclass of `turnwise.config.modes`, called once."""

    takes_ranks: ClassVar[bool]
    """Whether several processes that torchrun started can do it together."""
    looks_at_steps: ClassVar[bool]
    """Whether it is about steps of training, the figures of which the monitors of `health` look at."""

    def __call__(self, components: Components, run_dir: Path) -> None:
        """Starts what it needs inside `errors.building()`, does its work, leaves its files in `run_dir`."""
        ...
