"""What a researcher sets of the optimiser steps, and of the devices that take them."""

from dataclasses import dataclass
from enum import StrEnum
from math import inf


class Device(StrEnum):
    """Where the policy and a local engine live; `auto` takes CUDA where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """Of the forward and backward pass; the master weights stay float32. `auto`: bfloat16 on CUDA, float32 on a CPU."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The optimiser steps and what happens between them."""

    num_steps: int = 30
    """Steps, each of which samples trajectories and trains on them, by one optimiser step or several."""
    eval_every: int = 10
    """Steps between evaluations; there is always one before the first step and one after the last."""
    save_every: int = 10
    """Steps between checkpoints; there is always one at the end."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, beside the one whose evaluation was best; 0 keeps all."""
    learning_rate: float = 2e-4
    """Learning rate of AdamW, constant after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly to its full value; 0: full from the first step."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    beta1: float = 0.9
    """Decay of AdamW's running mean of gradients."""
    beta2: float = 0.95
    """Decay of AdamW's running mean of squared gradients."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    num_epochs: int = 1
    """Passes over each step's trajectories; with 1 and one minibatch every update is on-policy."""
    num_minibatches: int = 1
    """Optimiser steps of one pass. Trajectories are dealt out in turn; each minibatch averages over its own."""
    max_staleness: int = 0
    """1: sample a step while the one before it is trained on, by weights one update older; 0: strictly in turn."""
    drop_void_turns: bool = False
    """Leave trajectories with a void turn, neither well-formed call nor answer, out of the loss (SimpleTIR)."""
    drop_equal_outcomes: bool = False
    """Leave groups that are all correct or all wrong out of the loss and its denominators (DAPO)."""
    token_budget: int = 2048
    """Computed tokens per micro-batch, a shared prompt counted once; changes memory and speed, never the gradient."""
    logit_chunk: int = 4096
    """Tokens whose logits over the vocabulary are held at once."""
    gradient_checkpointing: bool = False
    """Compute each layer twice instead of keeping its activations: less memory, about a third more time."""
    device: Device = Device.auto
    """Where the policy and a local engine live."""
    dtype: Precision = Precision.auto
    """Precision of forward and backward passes."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "keep_checkpoints", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: expected >= 0")
        for name in ("eval_every", "save_every", "num_epochs", "num_minibatches", "token_budget", "logit_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: expected >= 1")
        if self.max_staleness not in (0, 1):
            raise ValueError(f"trainer.max_staleness={self.max_staleness}: expected 0 or 1")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: expected a finite number > 0")
        if not 0 <= self.weight_decay < inf:
            raise ValueError(f"trainer.weight_decay={self.weight_decay}: expected a finite number >= 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: expected in [0, 1)")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup_steps, 1))


@dataclass(frozen=True, kw_only=True)
class ShardedTrainerSettings(TrainerSettings):
    """The same for several processes, which torchrun starts and which have a part of the policy each (FSDP2)."""

    shard_size: int = 0
    """Processes that share one copy of the policy; more of them hold replicas (HSDP). 0: all share one."""
    cpu_offload: bool = False
    """Hold weights, gradients and optimiser in the host's memory and bring layers to the GPU for their passes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_size < 0:
            raise ValueError(f"trainer.shard_size={self.shard_size}: expected >= 0")
