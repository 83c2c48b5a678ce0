"""The seams of the framework, one signature each. Components inherit nothing; they only fit.

Stateless parts (reward, advantage, loss, similarity) are frozen dataclasses that are called. A part with a
life (engine, environment, task, tracker, policy) has a frozen dataclass of hyper-parameters whose `start`
makes the live part described here; whoever called `start` calls `close`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from turnwise.types import (
    Completion,
    Group,
    Isolation,
    LossOutput,
    Message,
    Problem,
    Sampling,
    ScoredGroup,
    StepResult,
    TokenBatch,
)

Metrics = Mapping[str, float]
"""What is logged: `area/name` to a number."""
PGK = Sequence[Sequence[Sequence[float]]]
"""One number for each turn of a step, `[P][G][K]`."""
Demonstrator = Callable[[str | None], str | None]
"""Says the next turn after a tool's output (None before the first turn); None when it has nothing more to say."""


class Renderer(Protocol):
    """Between messages and tokens: a tokenizer with its chat template."""

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of an opening transcript, up to where the policy's first turn begins."""
        ...

    def continuation_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens to append after a sampled turn (its stop token included), up to where the next turn begins."""
        ...

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a sampled turn, control tokens removed."""
        ...


class EngineSession(Protocol):
    """One trajectory's turns with the engine, which may keep its keys and values until the session is closed."""

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Samples one turn after `token_ids`, which begin with those of the session's last turn and that turn."""
        ...

    def close(self) -> None:
        """Ends the session; safe to call twice.

        An engine may let all sessions wait for one that is neither asked nor closed. So no session may depend on what
        another one samples.
        """
        ...


class RolloutEngine(Protocol):
    """Samples turns for many trajectories at a time. How they are batched and what is reused is its own affair."""

    @property
    def busy_s(self) -> float:
        """Seconds since its start in which it computed something, for the share of a step that nothing fills."""
        ...

    def session(self) -> EngineSession:
        """Begins a trajectory."""
        ...

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copies `weights`; every later completion comes from them and bears `version`. Forgets cached keys/values."""
        ...

    async def rest(self) -> None:
        """Nothing is asked for until the next `load_weights`: an engine may give its memory to the update."""
        ...

    async def close(self) -> None:
        """Frees what `start` took; safe to call twice."""
        ...


class Environment(Protocol):
    """One episode of one problem: messages only, no tokens. Used once, always closed."""

    def initial_messages(self) -> tuple[Message, ...]:
        """The opening transcript."""
        ...

    async def step(self, turn_text: str) -> StepResult:
        """Runs the turn's tool calls and replies; not called again after a result with a stop_reason."""
        ...

    async def close(self) -> None:
        """Ends the episode and whatever it still runs."""
        ...


class EnvironmentPool(Protocol):
    """Makes episodes; holds what they share, such as warm tool processes."""

    def episode(self, problem: Problem) -> Environment:
        """A fresh episode of `problem`."""
        ...

    @property
    def isolation(self) -> Isolation | None:
        """How programs are kept apart; None where there are none."""
        ...

    async def close(self) -> None:
        """Ends every shared process; safe to call twice."""
        ...


class Similarity(Protocol):
    """Likeness of two programs, in [0, 1]; symmetric; 1 for equal non-empty programs."""

    def __call__(self, code: str, other: str) -> float: ...


class Probe(Protocol):
    """Asks the policy about sampled groups before they are scored, and writes the answers into their trajectories."""

    def __call__(self, groups: Sequence[Group]) -> Sequence[Group]: ...


class Reward(Protocol):
    """Scores a group. Siblings are in view, so that shaping can compare them. Excluded trajectories get zeros."""

    def __call__(self, group: Group) -> ScoredGroup: ...


class AdvantageEstimator(Protocol):
    """Turns rewards into advantages `[P][G][K]`; excluded trajectories leave the statistics and get zeros."""

    @property
    def discount(self) -> float:
        """Factor per turn of the returns that are reported beside the advantages; 1 where rewards just add up."""
        ...

    @property
    def compares_siblings(self) -> bool:
        """Whether a trajectory is compared with its siblings, so that a group of one says nothing."""
        ...

    def __call__(self, scored_groups: Sequence[ScoredGroup]) -> list[list[list[float]]]: ...


class PolicyLoss(Protocol):
    """Scalar loss of a part of a step. Losses of the parts add up to the loss of the whole step.

    Log-probs and entropies are read at loss tokens only. The entropies carry a gradient where the policy was made for
    a loss that needs it.
    """

    def __call__(self, policy_logprobs_N: Tensor, batch: TokenBatch, entropy_N: Tensor | None = None) -> LossOutput: ...


class Update(NamedTuple):
    """An update's figures, and the log-probs `[N]` of the loss tokens as it found the policy, 0 elsewhere."""

    metrics: Metrics
    logprobs_N: Tensor


class Policy(Protocol):
    """The trained model with its optimiser. It never sees the engine."""

    def update(self, batch: TokenBatch, loss: PolicyLoss) -> Update:
        """Trains on the batch: one or more optimiser steps, each cut into micro-batches as memory asks."""
        ...

    def set_learning_rate(self, learning_rate: float) -> None:
        """What later updates use, for a schedule."""
        ...

    def logprobs(self, batch: TokenBatch) -> Tensor:
        """Log-probabilities `[N]` of the loss tokens at the batch's temperature, without gradient; 0 elsewhere."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """The current weights under their Hugging Face names, detached: views, or copies with an adapter merged."""
        ...

    def save_pretrained(self, folder: Path) -> None:
        """Writes weights, config and tokenizer in the Hugging Face layout."""
        ...

    def load_pretrained(self, folder: Path) -> None:
        """Reads the weights that `save_pretrained` wrote."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state; the weights are saved apart."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        ...


class Task(Protocol):
    """Problems in a seeded order with a resumable cursor; the train and eval splits never overlap."""

    name: str

    @property
    def removed(self) -> Mapping[str, int]:
        """How many train problems were removed, by the name of the evaluation set that knows them.

        Of a finite train split all of them once a batch was drawn, of an endless one those that were met so far.
        """
        ...

    def next_batch(self, num_problems: int) -> list[Problem]:
        """The next problems of the train split; moves the cursor."""
        ...

    def eval_sets(self, num_problems: int) -> Mapping[str, Sequence[Problem]]:
        """The first problems of each evaluation set by its name, the same for every seed and every call."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The cursor, JSON-serialisable."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the cursor back."""
        ...


@runtime_checkable
class Demonstrated(Protocol):
    """A task, not yet started, whose problems can be shown to a policy that knows nothing."""

    def demonstrations(self, seed: int) -> Iterator[tuple[Problem, Demonstrator]]:
        """An endless stream of problems from the train side of the split, each with someone who solves it."""
        ...


class Tracker(Protocol):
    """Where figures go while a run is under way."""

    def log(self, metrics: Metrics, step: int) -> None:
        """Records `area/name` figures of a step."""
        ...

    def log_groups(self, groups: Sequence[ScoredGroup], returns: PGK, advantages: PGK, step: int) -> None:
        """Records the step's trajectories with rewards, returns and advantages."""
        ...

    def close(self) -> None:
        """Flushes and ends; safe to call twice."""
        ...
