"""How an evaluation is made: which problems, how often, how sampled, with or without the tool."""

from dataclasses import dataclass, field
from enum import StrEnum

from turnwise.core.truncation import NO_TOP_K, NO_TOP_P, check_truncation


class Tools(StrEnum):
    """Whether the policy has its tool: `off` asks what it would score without, `both` measures the difference."""

    on = "on"
    off = "off"
    both = "both"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How many held-out problems, how often each, and how sampled."""

    num_problems: int = 256
    """Problems of each evaluation set; the same ones at every evaluation of every seed."""
    num_samples: int = 1
    """Trajectories per problem; accuracy is their mean (avg@k)."""
    ks: list[int] = field(default_factory=list)
    """The k of pass@k and majority@k, each at most num_samples; empty: 2, 4, 8, ... and num_samples."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    top_k: int = NO_TOP_K
    """Only the so many likeliest tokens can be sampled; 0: all."""
    top_p: float = NO_TOP_P
    """Only the likeliest tokens that together have this probability can be sampled; 1: all."""
    tools: Tools = Tools.on
    """Whether the policy has its tool; without it there is one turn, after model.system_prompt_without_tool."""
    save_groups: bool = True
    """Keep every trajectory, to read and to go on from where an evaluation was interrupted."""
    wave_size: int = 128
    """Trajectories that are sampled at a time, then kept; whole problems, at least one."""

    def __post_init__(self) -> None:
        for name in ("num_problems", "num_samples", "wave_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name}={getattr(self, name)}: expected >= 1")
        if not self.temperature >= 0:
            raise ValueError(f"evaluation.temperature={self.temperature}: expected >= 0 (0 is greedy)")
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(f"evaluation.num_samples={self.num_samples}: greedy samples are equal, expected 1")
        if unfit := [k for k in self.ks if not 1 <= k <= self.num_samples]:
            raise ValueError(
                f"evaluation.ks={list(self.ks)}: {unfit[0]} is not in 1 to evaluation.num_samples={self.num_samples}; "
                f"pass@k needs k samples of every problem"
            )
        check_truncation(top_k=self.top_k, top_p=self.top_p, prefix="evaluation.")

    @property
    def chosen_ks(self) -> list[int]:
        """The k above 1 that figures are given for, in order."""
        doubled = [2**power for power in range(1, self.num_samples.bit_length()) if 2**power < self.num_samples]
        return sorted({k for k in self.ks or [*doubled, self.num_samples] if k > 1})
