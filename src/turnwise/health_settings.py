"""What a researcher sets of the watch over a run: which figures may go how far, and what follows when they do."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import isfinite


class Action(StrEnum):
    """What an alarm leads to."""

    off = "off"
    """Nothing: the figure is not looked at."""
    warn = "warn"
    """A line on the terminal and in health.jsonl."""
    stop = "stop"
    """The run ends as failed, with exit code 1; its last checkpoint is where it would go on."""
    roll_back = "roll_back"
    """The run goes back to the last checkpoint before the trouble began and takes another way from there."""


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Bounds of one figure. A figure that is not finite is out of bounds; one that is absent is not looked at."""

    action: Action = Action.warn
    """What follows when the figure has been out of bounds for `patience` steps in a row: off, warn, stop, roll_back."""
    min: float | None = None
    """Smallest value that is well; null: no such bound."""
    max: float | None = None
    """Largest value that is well."""
    min_ratio: float | None = None
    """The same as a share of the run's own beginning, the median of its first `health.baseline_steps` steps."""
    max_ratio: float | None = None
    """The same as a multiple of the run's own beginning."""
    patience: int = 3
    """Steps in a row that are out of bounds before anything follows."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience={self.patience}: expected >= 1")
        for name in ("min", "max", "min_ratio", "max_ratio"):
            bound = getattr(self, name)
            if bound is not None and not isfinite(bound):
                raise ValueError(f"{name}={bound}: expected a finite number or null")
        for low, high in (("min", "max"), ("min_ratio", "max_ratio")):
            smallest, largest = getattr(self, low), getattr(self, high)
            if smallest is not None and largest is not None and smallest > largest:
                raise ValueError(f"{low}={smallest:g} {high}={largest:g}: expected {low} <= {high}")
        for name in ("min_ratio", "max_ratio"):
            if (ratio := getattr(self, name)) is not None and ratio < 0:
                raise ValueError(f"{name}={ratio:g}: expected >= 0")


@dataclass(frozen=True, kw_only=True)
class WatchdogSettings:
    """When something counts as stuck, and what follows."""

    timeout_s: float = 900.0
    """Seconds in which an engine, a tool, a reward, an update or a checkpoint is at work and none of its kind gets any
    further; above the longest of them (a vLLM turn of many tokens, an update, the grading of an evaluation). 0: nobody
    watches."""
    action: Action = Action.warn
    """warn: stacks of all threads and tasks into stuck_<n>.txt, and a line. stop: the same, then the run ends with exit
    code 1, with a checkpoint where it still listens. off."""
    grace_s: float = 60.0
    """Seconds in which a run must hear that it is to stop; then, or when it has not ended `timeout_s` later, its
    process is ended from without."""

    def __post_init__(self) -> None:
        if not 0 <= self.timeout_s < float("inf"):
            raise ValueError(f"timeout_s={self.timeout_s}: expected a finite number >= 0")
        if not 0 <= self.grace_s < float("inf"):
            raise ValueError(f"grace_s={self.grace_s}: expected a finite number >= 0")
        if self.action is Action.roll_back:
            raise ValueError("action=roll_back: what is stuck cannot be trained again, expected off, warn or stop")


@dataclass(frozen=True, kw_only=True)
class HealthSettings:
    """The watch over a run. By default it only warns, but for figures that are not finite, which end the run."""

    entropy: Monitor = field(default_factory=lambda: Monitor(min=0.01, max_ratio=4.0))
    """`loss/entropy`, nats: too low, and every trajectory is the same; rising without end, and the policy dissolves."""
    grad_norm: Monitor = field(default_factory=lambda: Monitor(max_ratio=10.0))
    """`loss/grad_norm`, before clipping."""
    length: Monitor = field(default_factory=lambda: Monitor(min_ratio=0.2, max_ratio=3.0))
    """`rollout/num_sampled_tokens` of a trajectory: no more thinking, or babble up to the limit."""
    repetition: Monitor = field(default_factory=lambda: Monitor(max=0.4))
    """`rollout/repetition`: the share of sampled 4-grams that their trajectory had before."""
    tool_use: Monitor = field(default_factory=lambda: Monitor(min=0.05))
    """`rollout/tool_use`: the share of trajectories that call the tool."""
    engine_kl: Monitor = field(default_factory=lambda: Monitor(max=0.05))
    """`mismatch/kl`, nats a token: the engine samples from another policy than the one that is trained."""
    reference_kl: Monitor = field(default_factory=lambda: Monitor(max=0.5))
    """`loss/kl`, nats a token, with `loss.kl_weight` above 0: how far the policy went from where it started."""
    not_finite: Action = Action.stop
    """What follows on logits, a loss or a gradient that are not finite: stop, or roll_back."""
    baseline_steps: int = 5
    """First steps of a run whose median the ratios refer to; before they are over no ratio is looked at."""
    max_roll_backs: int = 3
    """Times that a run may go back; then the next alarm that asks for it ends the run."""
    learning_rate_factor: float = 0.5
    """What the learning rate is multiplied by at each time, beside other samples from there on; 1 leaves it."""
    watchdog: WatchdogSettings = field(default_factory=WatchdogSettings)
    """The watch over what makes no progress at all."""

    def __post_init__(self) -> None:
        for name, smallest in (("baseline_steps", 1), ("max_roll_backs", 1)):
            if getattr(self, name) < smallest:
                raise ValueError(f"health.{name}={getattr(self, name)}: expected >= {smallest}")
        if not 0 < self.learning_rate_factor <= 1:
            raise ValueError(f"health.learning_rate_factor={self.learning_rate_factor}: expected in (0, 1]")
        if self.not_finite not in (Action.stop, Action.roll_back):
            raise ValueError(f"health.not_finite={self.not_finite}: no step can be taken, expected stop or roll_back")

    def monitors(self) -> Iterator[tuple[str, Monitor]]:
        """Each monitor that is not off, by its name."""
        for name in (one.name for one in fields(self)):
            monitor = getattr(self, name)
            if isinstance(monitor, Monitor) and monitor.action is not Action.off:
                yield name, monitor

    @property
    def rolls_back(self) -> bool:
        """Whether anything sends the run back to a checkpoint."""
        actions = [monitor.action for _, monitor in self.monitors()]
        return Action.roll_back in (*actions, self.not_finite)
