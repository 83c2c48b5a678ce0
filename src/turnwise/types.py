"""The nouns through which everything flows, one per stage: problem, turn, trajectory, group, scored group, token batch.

Every type is frozen and checks its content when it is made. Index suffixes of arrays and nested sequences: `P`
problems, `G` trajectories of a group, `K` turns of a trajectory, `N` packed tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from turnwise.completion import Completion, FinishReason, Sampling
from turnwise.token_batch import LossOutput, TokenBatch

__all__ = [  # the nouns of every stage, this module's own and those that hold tensors
    "Completion",
    "FinishReason",
    "Group",
    "Isolation",
    "LossOutput",
    "Message",
    "Problem",
    "Sampling",
    "ScoredGroup",
    "StepResult",
    "StopReason",
    "TokenBatch",
    "ToolCall",
    "ToolResult",
    "ToolStatus",
    "Trajectory",
    "Turn",
]


class StopReason(StrEnum):
    """Why a trajectory ended."""

    answered = "answered"
    max_turns = "max_turns"
    max_tokens = "max_tokens"
    prompt_too_long = "prompt_too_long"
    void_turn = "void_turn"
    tool_infrastructure = "tool_infrastructure"
    engine_abort = "engine_abort"


_INFRASTRUCTURE_FAILURES = (StopReason.tool_infrastructure, StopReason.engine_abort)


class Isolation(IntEnum):
    """How the programs of a policy are kept apart from everything else; as a number it is `tool/isolation`."""

    unsafe = 0
    """By limits alone: they have their user's files, processes and network."""
    B = 1
    """By Landlock and seccomp too."""
    A = 2
    """By namespaces and a root folder of their own too."""
    remote = 3
    """By whatever the server does to which they are sent."""

    @property
    def words(self) -> str:
        """What it is, for a person."""
        return {
            Isolation.unsafe: "none: limits of time and memory alone, with all that your user can do",
            Isolation.B: "tier B: Landlock, seccomp, limits; no namespaces",
            Isolation.A: "tier A: namespaces, Landlock, seccomp, limits",
            Isolation.remote: "that of the server of env.sandbox.url",
        }[self]


class ToolStatus(StrEnum):
    """How one execution of a tool ended. Only `infrastructure` is not the policy's doing."""

    ok = "ok"
    user_error = "user_error"
    timeout = "timeout"
    memory = "memory"
    output_limit = "output_limit"
    blocked = "blocked"
    infrastructure = "infrastructure"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of a chat transcript."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A question with its gold answer; `source` names the family or data set that it belongs to.

    Where there are `tests`, they decide: run behind a program that defines `entry_point`, they raise when it is wrong.
    """

    id: str
    prompt: tuple[Message, ...]
    answer: str
    source: str
    tests: str = ""
    entry_point: str = ""

    def __post_init__(self) -> None:
        if bool(self.tests) != bool(self.entry_point):
            raise ValueError(f"Problem {self.id!r}: tests and entry_point, expected both or neither")
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
    """An environment's reply to one turn: `messages` that continue the transcript, or why the episode is over.

    `passed` is the verdict of the problem's tests on the answer; None without.
    """

    messages: tuple[Message, ...] = ()
    stop_reason: StopReason | None = None
    answer: str | None = None
    passed: bool | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_result: ToolResult | None = None

    def __post_init__(self) -> None:
        if (self.stop_reason is None) != bool(self.messages):
            raise ValueError(f"StepResult: expected either messages or a stop_reason, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One action of the policy: the tokens `span[0]:span[1]` of its trajectory, all of them sampled.

    `trainer_logprobs`, None where it took no part in the loss, are the trainer's own, at the weights that sampled it.
    """

    span: tuple[int, int]
    behaviour_logprobs: tuple[float, ...]
    text: str
    tool_calls: tuple[ToolCall, ...]
    tool_result: ToolResult | None
    finish_reason: FinishReason
    policy_version: int
    trainer_logprobs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        start, end = self.span
        if not 0 <= start < end:
            raise ValueError(f"Turn.span={self.span}: expected 0 <= start < end")
        for logprobs in (self.behaviour_logprobs, self.trainer_logprobs):
            if logprobs is not None and len(logprobs) != end - start:
                raise ValueError(f"Turn.span={self.span} does not fit its {len(logprobs)} log-probs")
        if not (math.isfinite(sum(self.behaviour_logprobs)) and max(self.behaviour_logprobs) <= 1e-5):
            raise ValueError(f"Turn.span={self.span}: behaviour_logprobs must be finite and <= 0")

    @property
    def has_format_error(self) -> bool:
        """Whether any tool call of the turn is malformed."""
        return any(call.error is not None for call in self.tool_calls)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """One transcript: prompt, sampled and tool tokens in order, grown by appending and never re-encoded.

    `gold_logprobs`, where a reward asked for it, says how likely the policy found the gold answer when each turn
    began: K means over the answer's tokens. `passed` is the verdict of the problem's tests on the answer; None without.
    """

    problem_id: str
    sample_index: int
    token_ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    answer: str | None = None
    passed: bool | None = None
    gold_logprobs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        bounds = [edge for turn in self.turns for edge in turn.span]
        if bounds != sorted(bounds) or (bounds and bounds[-1] > len(self.token_ids)):
            spans = f"spans {[turn.span for turn in self.turns]} in {len(self.token_ids)} tokens"
            name = f"{self.problem_id!r}/{self.sample_index}"
            raise ValueError(f"Trajectory {name}: {spans} must be ordered and disjoint")
        gold = self.gold_logprobs
        if gold is not None and (len(gold) != len(self.turns) or not all(map(math.isfinite, gold))):
            raise ValueError(
                f"Trajectory {self.problem_id!r}/{self.sample_index}: gold_logprobs={gold}, expected "
                f"{len(self.turns)} finite numbers, one for each turn"
            )

    @property
    def has_infrastructure_failure(self) -> bool:
        """Whether it ended through no fault of the policy; it then counts neither as right nor as wrong."""
        return self.stop_reason in _INFRASTRUCTURE_FAILURES

    @property
    def is_excluded(self) -> bool:
        """Whether it leaves statistics and loss: infrastructure failed, or nothing was sampled."""
        return not self.turns or self.stop_reason in _INFRASTRUCTURE_FAILURES

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


Peers = tuple[tuple[int, float], ...]
"""Siblings of a trajectory by their place in the group, each with the similarity of its code, in [0, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredGroup:
    """A group with its rewards: `turn_rewards_GK` is the sum of the named `terms`, each `[G][K]`.

    `outcome_terms` names those of the terms that judge a trajectory as a whole, such as the accuracy of its answer;
    the others judge single turns. Some estimators treat the two apart. `shaping_peers_G`: what shaping compared each
    trajectory with; empty without shaping.
    """

    group: Group
    turn_rewards_GK: tuple[tuple[float, ...], ...]
    terms: Mapping[str, tuple[tuple[float, ...], ...]]
    correct_G: tuple[bool, ...]
    outcome_terms: tuple[str, ...] = ()
    shaping_peers_G: tuple[Peers, ...] = ()

    def __post_init__(self) -> None:
        if missing := set(self.outcome_terms) - set(self.terms):
            raise ValueError(f"ScoredGroup.outcome_terms names {sorted(missing)}, the terms are {sorted(self.terms)}")
        shape = [len(t.turns) for t in self.group.trajectories]
        for name, rows in {"turn_rewards_GK": self.turn_rewards_GK, **self.terms}.items():
            if [len(row) for row in rows] != shape:
                raise ValueError(f"ScoredGroup.{name}: rows of {[len(r) for r in rows]} turns, the group has {shape}")
            if not all(math.isfinite(x) for row in rows for x in row):
                raise ValueError(f"ScoredGroup.{name} of {self.group.problem.id!r} holds NaN or infinity: {rows}")
        if len(self.correct_G) != len(shape):
            raise ValueError(f"ScoredGroup.correct_G has {len(self.correct_G)} entries, the group has {len(shape)}")

    @property
    def outcome_G(self) -> tuple[float, ...]:
        """The part of each trajectory's reward that judges it as a whole: its outcome terms, summed over turns."""
        rows = zip(*(self.terms[name] for name in self.outcome_terms), strict=True)
        sums = tuple(sum(map(sum, rows_K)) for rows_K in rows)
        return sums if self.outcome_terms else (0.0,) * len(self.correct_G)

    @property
    def has_equal_outcomes(self) -> bool:
        """Whether the trajectories that count are all correct or all wrong; so too where none counts."""
        pairs = zip(self.correct_G, self.group.trajectories, strict=True)
        return len({correct for correct, trajectory in pairs if not trajectory.is_excluded}) < 2

    def without(self, term: str) -> "ScoredGroup":
        """The same group with `term` taken out of the rewards; itself if there is no such term."""
        if term not in self.terms:
            return self
        terms = {name: rows for name, rows in self.terms.items() if name != term}
        rewards = tuple(
            tuple(sum(rows[g][k] for rows in terms.values()) for k in range(len(row)))
            for g, row in enumerate(self.turn_rewards_GK)
        )
        kept = tuple(name for name in self.outcome_terms if name != term)
        return replace(self, turn_rewards_GK=rewards, terms=terms, outcome_terms=kept)
