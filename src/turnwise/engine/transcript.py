"""A trajectory as the engine sees it: its tokens, the turn that is being sampled, its slot."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from turnwise.types import Completion, FinishReason, Sampling


@dataclass(eq=False, kw_only=True)
class Turn:
    """A turn that a caller waits for."""

    sampling: Sampling
    max_new_tokens: int
    """That of `sampling`, or less where the model has no more positions."""
    uniforms: Sequence[float]
    """A number in [0, 1) for each of these tokens."""
    future: "asyncio.Future[Completion]"
    logprobs: list[float] = field(default_factory=list)


class Completed(NamedTuple):
    """A turn that ended, for the caller that waits for it."""

    future: "asyncio.Future[Completion]"
    completion: Completion


@dataclass(eq=False, kw_only=True)
class Transcript:
    """The trajectory of one session."""

    due: int
    """Tick at which it joins the passes, or joined them."""
    token_ids: list[int] = field(default_factory=list)
    """All tokens as far as the engine knows them: what the caller gave, and what was sampled after it."""
    turn: Turn | None = None
    """None while the caller has the turn."""
    is_closed: bool = False
    """Whether the caller is done with it."""
    num_columns: int = 0
    """Tokens that it may have when its turn ends."""
    slot: int | None = None
    """Where its keys and values lie; None before it has a place."""
    num_cached: int = 0
    """How many of its tokens have keys and values there."""

    def ask(self, token_ids: Sequence[int], turn: Turn) -> None:
        """The caller wants a turn after `token_ids`."""
        self.token_ids, self.turn = list(token_ids), turn
        self.num_columns = len(token_ids) + turn.max_new_tokens

    def append(self, token_id: int, logprob: float, stop_token_ids: frozenset[int]) -> FinishReason | None:
        """Takes a sampled token; says why the turn ends with it, if it does."""
        assert self.turn is not None, "nothing is sampled outside a turn"
        self.token_ids.append(token_id)
        self.turn.logprobs.append(logprob)
        if token_id in stop_token_ids:
            return FinishReason.stop
        return FinishReason.length if len(self.turn.logprobs) == self.turn.max_new_tokens else None

    def complete(self, finish_reason: FinishReason, policy_version: int) -> Completed:
        """Ends the turn; `deliver` gives it to the caller."""
        assert self.turn is not None, "there is no turn to complete"
        turn, self.turn = self.turn, None
        completion = Completion(
            token_ids=tuple(self.token_ids[-len(turn.logprobs) :]),
            logprobs=tuple(turn.logprobs),
            finish_reason=finish_reason,
            policy_version=policy_version,
        )
        return Completed(turn.future, completion)

    def fail(self, error: Exception | None = None) -> None:
        """Ends, in the event loop, a turn that will not be finished: its caller gets the error, or is cancelled."""
        turn, self.turn = self.turn, None
        if turn is None or turn.future.done():
            return
        if error is None:
            turn.future.cancel()
        else:
            turn.future.set_exception(error)

    def leave(self) -> None:
        """Gives up its place; what it had there is computed anew if it goes on."""
        self.slot, self.num_cached = None, 0


def deliver(completed: Sequence[Completed]) -> None:
    """Gives turns to their callers; in the event loop."""
    for future, completion in completed:
        if not future.done():  # else its caller was cancelled
            future.set_result(completion)
