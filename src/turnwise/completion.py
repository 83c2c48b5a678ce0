"""The nouns between a rollout and its engine: how a turn is to be sampled, and what was sampled."""

from dataclasses import dataclass
from enum import StrEnum

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P, check_truncation


class FinishReason(StrEnum):
    """Why the engine stopped sampling a turn."""

    stop = "stop"
    length = "length"
    abort = "abort"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one turn is sampled. The same weights, tokens and `seed` give the same turn.

    Tokens that `top_k` and `top_p` take away (`turnwise.core.truncation`) are not sampled, and the log-probs of the
    others are those of the distribution that is left.
    """

    temperature: float
    max_new_tokens: int
    seed: int
    top_k: int = NO_TOP_K
    top_p: float = NO_TOP_P

    def __post_init__(self) -> None:
        check_truncation(top_k=self.top_k, top_p=self.top_p)
        if not self.temperature >= 0 or self.max_new_tokens < 1:
            raise ValueError(f"{self}: expected temperature >= 0 (0 is greedy) and max_new_tokens >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What an engine sampled: ids (stop token included), their log-probs, the version of the weights."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"Completion: {len(self.token_ids)} tokens but {len(self.logprobs)} log-probs")
