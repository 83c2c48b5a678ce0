"""The nouns through which everything flows, one per stage: problem, turn, trajectory, group, scored group, token batch.

Every type is frozen and checks its content when it is made. Index suffixes of arrays and nested sequences: `P`
problems, `G` trajectories of a group, `K` turns of a trajectory, `N` packed tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor


class StopReason(StrEnum):
    """Why a trajectory ended."""

    answered = "answered"
    max_turns = "max_turns"
    max_tokens = "max_tokens"
    prompt_too_long = "prompt_too_long"
    void_turn = "void_turn"
    tool_infrastructure = "tool_infrastructure"
    engine_abort = "engine_abort"


class ToolStatus(StrEnum):
    """How one execution of a tool ended. Only `infrastructure` is not the policy's doing."""

    ok = "ok"
    user_error = "user_error"
    timeout = "timeout"
    memory = "memory"
    output_limit = "output_limit"
    blocked = "blocked"
    infrastructure = "infrastructure"


class FinishReason(StrEnum):
    """Why the engine stopped sampling a turn."""

    stop = "stop"
    length = "length"
    abort = "abort"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of a chat transcript."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A question with its gold answer; `source` names the family or data set that it belongs to."""

    id: str
    prompt: tuple[Message, ...]
    answer: str
    source: str

    def __post_init__(self) -> None:
        for name in ("id", "prompt", "answer"):
            if not (value := getattr(self, name)) or not str(value).strip():
                raise ValueError(f"Problem {self.id!r}: {name} is empty")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call that a turn asked for; `error` says why it is malformed, None when it is well-formed."""

    code: str
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """What running a turn's calls gave; `output` is the text that the policy sees, `wall_s` is in seconds."""

    status: ToolStatus
    output: str
    wall_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """An environment's reply to one turn: `messages` that continue the transcript, or why the episode is over."""

    messages: tuple[Message, ...] = ()
    stop_reason: StopReason | None = None
    answer: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_result: ToolResult | None = None

    def __post_init__(self) -> None:
        if (self.stop_reason is None) != bool(self.messages):
            raise ValueError(f"StepResult: expected either messages or a stop_reason, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one turn is sampled. The same weights, tokens and `seed` give the same turn."""

    temperature: float
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One action of the policy: the tokens `span[0]:span[1]` of its trajectory, all of them sampled."""

    span: tuple[int, int]
    behaviour_logprobs: tuple[float, ...]
    text: str
    tool_calls: tuple[ToolCall, ...]
    tool_result: ToolResult | None
    finish_reason: FinishReason
    policy_version: int

    def __post_init__(self) -> None:
        start, end = self.span
        if not 0 <= start < end:
            raise ValueError(f"Turn.span={self.span}: expected 0 <= start < end")
        if len(self.behaviour_logprobs) != end - start:
            raise ValueError(
                f"Turn.span={self.span} does not fit its {len(self.behaviour_logprobs)} behaviour_logprobs"
            )
        if not all(math.isfinite(x) and x <= 1e-5 for x in self.behaviour_logprobs):
            raise ValueError(f"Turn.span={self.span}: behaviour_logprobs must be finite and <= 0")

    @property
    def has_format_error(self) -> bool:
        """Whether any tool call of the turn is malformed."""
        return any(call.error is not None for call in self.tool_calls)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """One transcript: prompt, sampled and tool tokens in order, grown by appending and never re-encoded."""

    problem_id: str
    sample_index: int
    token_ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    answer: str | None = None

    def __post_init__(self) -> None:
        bounds = [edge for turn in self.turns for edge in turn.span]
        if bounds != sorted(bounds) or (bounds and bounds[-1] > len(self.token_ids)):
            spans = f"spans {[turn.span for turn in self.turns]} in {len(self.token_ids)} tokens"
            raise ValueError(
                f"Trajectory {self.problem_id!r}/{self.sample_index}: {spans} must be ordered and disjoint"
            )

    @property
    def has_infrastructure_failure(self) -> bool:
        """Whether it ended through no fault of the policy; it then counts neither as right nor as wrong."""
        return self.stop_reason in (StopReason.tool_infrastructure, StopReason.engine_abort)

    @property
    def is_excluded(self) -> bool:
        """Whether it leaves statistics and loss: infrastructure failed, or nothing was sampled."""
        return not self.turns or self.has_infrastructure_failure

    @property
    def code(self) -> str:
        """The well-formed code of all turns, in order."""
        return "\n".join(call.code for turn in self.turns for call in turn.tool_calls if call.error is None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The G trajectories sampled for one problem; all share the prompt tokens."""

    problem: Problem
    trajectories: tuple[Trajectory, ...]

    def __post_init__(self) -> None:
        if (ids := {trajectory.problem_id for trajectory in self.trajectories}) != {self.problem.id}:
            raise ValueError(f"Group of problem {self.problem.id!r} holds trajectories of {sorted(ids) or 'none'}")
        prompts = {t.token_ids[: t.turns[0].span[0]] for t in self.trajectories if t.turns}
        if len(prompts) > 1:
            raise ValueError(f"Group of problem {self.problem.id!r}: trajectories differ in their prompt tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredGroup:
    """A group with its rewards: `turn_rewards_GK` is the sum of the named `terms`, each `[G][K]`."""

    group: Group
    turn_rewards_GK: tuple[tuple[float, ...], ...]
    terms: Mapping[str, tuple[tuple[float, ...], ...]]
    correct_G: tuple[bool, ...]

    def __post_init__(self) -> None:
        shape = [len(t.turns) for t in self.group.trajectories]
        for name, rows in {"turn_rewards_GK": self.turn_rewards_GK, **self.terms}.items():
            if [len(row) for row in rows] != shape:
                raise ValueError(f"ScoredGroup.{name}: rows of {[len(r) for r in rows]} turns, the group has {shape}")
            if not all(math.isfinite(x) for row in rows for x in row):
                raise ValueError(f"ScoredGroup.{name} of {self.group.problem.id!r} holds NaN or infinity: {rows}")
        if len(self.correct_G) != len(shape):
            raise ValueError(f"ScoredGroup.correct_G has {len(self.correct_G)} entries, the group has {len(shape)}")


PER_TOKEN_DTYPES = {
    **dict.fromkeys(("token_ids", "position_ids", "turn_index", "sequence_index"), torch.int64),
    **dict.fromkeys(("advantages", "behaviour_logprobs"), torch.float32),
    "loss_mask": torch.bool,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Whole trajectories packed end to end into 1-D tensors over N tokens, ready for one update.

    Sequence s holds tokens `cu_seqlens[s]:cu_seqlens[s + 1]`. Entries of the per-token tensors belong
    to the token at that place: `behaviour_logprobs[n]` is the log-probability of `token_ids[n]` given the
    tokens before it, at `temperature`. `turn_index` counts the turns of its sequence from 0 and is -1 on
    prompt and tool tokens. The `num_loss_*` counts are those of the whole optimiser step, whichever part
    of it the batch holds, so that a loss does not depend on how the step was cut.
    """

    token_ids: Tensor
    position_ids: Tensor
    loss_mask: Tensor
    advantages: Tensor
    behaviour_logprobs: Tensor
    turn_index: Tensor
    sequence_index: Tensor
    cu_seqlens: Tensor
    num_loss_tokens: int
    num_loss_turns: int
    num_loss_sequences: int
    temperature: float

    def __post_init__(self) -> None:
        num_tokens = self.token_ids.numel()
        for name, dtype in PER_TOKEN_DTYPES.items():
            tensor = getattr(self, name)
            if tensor.shape != (num_tokens,) or tensor.dtype != dtype:
                found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise ValueError(f"TokenBatch.{name}: expected {dtype} of shape ({num_tokens},), got {found}")
        if self.cu_seqlens.dtype != torch.int32 or self.cu_seqlens.ndim != 1:
            raise ValueError(f"TokenBatch.cu_seqlens: expected int32 of rank 1, got {self.cu_seqlens.dtype}")
        if (edges := self.cu_seqlens[[0, -1]].tolist()) != [0, num_tokens]:
            raise ValueError(f"TokenBatch.cu_seqlens runs from {edges[0]} to {edges[1]}, expected 0 to {num_tokens}")
        if not bool(torch.isfinite(self.advantages).all()):
            raise ValueError("TokenBatch.advantages holds NaN or infinity")

    @property
    def num_sequences(self) -> int:
        """Number of trajectories in the batch."""
        return self.cu_seqlens.numel() - 1

    def select(self, sequences: Sequence[int]) -> "TokenBatch":
        """The batch of the given sequences only, in that order; the counts of the whole step stay."""
        edges = self.cu_seqlens.tolist()
        places = torch.cat([torch.arange(edges[s], edges[s + 1]) for s in sequences]).to(self.token_ids.device)
        lengths = torch.tensor([0, *(edges[s + 1] - edges[s] for s in sequences)])
        order = torch.arange(len(sequences)).repeat_interleave(lengths[1:])
        picked = {name: getattr(self, name)[places] for name in PER_TOKEN_DTYPES}
        picked["sequence_index"] = order.to(self.token_ids.device)
        return replace(self, **picked, cu_seqlens=lengths.cumsum(0).to(self.cu_seqlens))

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch with every tensor on `device`."""
        moved = {name: value.to(device) for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """A scalar loss to differentiate, and its figures: each a sum over the batch divided by the step's counts."""

    loss: Tensor
    metrics: Mapping[str, float]
