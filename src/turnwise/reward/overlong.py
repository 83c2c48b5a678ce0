"""The price of length: a slope in front of the limit."""

from dataclasses import dataclass

from turnwise.types import StopReason, Trajectory


@dataclass(frozen=True, kw_only=True)
class OverlongPenalty:
    """DAPO's soft punishment of overlong answers (arXiv 2503.14476, section 3.4), on the last turn.

    With `buffer = buffer_fraction * max_tokens`, a trajectory of L tokens gets 0 up to `max_tokens - buffer`, then
    linearly less, down to `-penalty` at `max_tokens`:

        -penalty * min(1, max(0, (L - (max_tokens - buffer)) / buffer))

    L counts the whole transcript, as `rollout.max_tokens` does: prompt, sampled turns and tool output, up to the end of
    the last turn. (The paper's L is that of a single response.) A trajectory that was cut at the limit pays the whole
    penalty, also where it was a reply of the tool that did not fit.
    """

    buffer_fraction: float = 0.0
    """Part of the limit over which the penalty grows; 0.2 in the paper, 0 turns it off."""
    penalty: float = 1.0
    """Subtracted from a trajectory that reaches the limit."""
    max_tokens: int = 224
    """The limit in tokens; option files set it to `rollout.max_tokens`."""

    def __post_init__(self) -> None:
        if not 0 <= self.buffer_fraction <= 1:
            raise ValueError(f"buffer_fraction={self.buffer_fraction}: expected 0 to 1")
        if not 0 <= self.penalty < float("inf"):
            raise ValueError(f"penalty={self.penalty}: expected a finite number >= 0 (it is subtracted)")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens}: expected >= 1")

    @property
    def is_in_use(self) -> bool:
        """Whether length costs anything."""
        return self.buffer_fraction > 0

    def __call__(self, trajectory: Trajectory) -> float:
        """What a trajectory with at least one turn gets, in [-penalty, 0]."""
        is_cut = trajectory.stop_reason is StopReason.max_tokens
        num_tokens = self.max_tokens if is_cut else trajectory.turns[-1].span[1]
        buffer = self.buffer_fraction * self.max_tokens
        excess = num_tokens - (self.max_tokens - buffer)
        if not self.is_in_use or excess <= 0:
            return 0.0
        return 0.0 - self.penalty * min(1.0, excess / buffer)  # not -penalty, which may be -0.0
