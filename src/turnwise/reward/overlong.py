"""The price of length: a slope in front of the limit."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OverlongPenalty:
    """DAPO's soft punishment of overlong answers (arXiv 2503.14476, section 3.4), on the last turn.

    A trajectory of L tokens gets 0 up to `max_tokens - buffer`, then linearly less, down to `-penalty` at `max_tokens`:

        -penalty * min(1, max(0, (L - (max_tokens - buffer)) / buffer))

    L counts the whole transcript, as `rollout.max_tokens` does: prompt, sampled turns and tool output, up to the end of
    the last turn. (The paper's L is that of a single response.)
    """

    buffer: int = 0
    """Tokens before the limit over which the penalty grows; 0 turns it off."""
    penalty: float = 1.0
    """Subtracted from a trajectory that reaches the limit."""
    max_tokens: int = 224
    """The limit in tokens; option files set it to `rollout.max_tokens`."""

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < float("inf"):
            raise ValueError(f"overlong.penalty={self.penalty}: expected a finite number >= 0 (it is subtracted)")
        if not 0 <= self.buffer <= self.max_tokens:
            raise ValueError(f"overlong.buffer={self.buffer}: expected 0 to overlong.max_tokens={self.max_tokens}")

    def __call__(self, num_tokens: int) -> float:
        """What a trajectory of `num_tokens` gets, in [-penalty, 0]."""
        excess = num_tokens - (self.max_tokens - self.buffer)
        if self.buffer == 0 or excess <= 0:
            return 0.0
        return 0.0 - self.penalty * min(1.0, excess / self.buffer)  # not -penalty, which may be -0.0
