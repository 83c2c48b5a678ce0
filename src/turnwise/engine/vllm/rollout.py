"""What all vLLM engines are: sessions over one vLLM or several, and the hand-over of weights to all of them."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from turnwise.engine.vllm.backend import Backend, Gone, NoVLLMLeft
from turnwise.engine.vllm.clock import BusyClock
from turnwise.engine.vllm.handover import WeightNames, wire_weights
from turnwise.engine.vllm.heads import head_size, padded_weights
from turnwise.engine.vllm.member import Member, Proof
from turnwise.engine.vllm.probe import Reference, probe_prompt
from turnwise.engine.vllm.transfer import Transfer
from turnwise.types import Completion, FinishReason, Sampling

LOGGER = logging.getLogger(__name__)
PATIENCE_S = 3600.0
"""Seconds that a vLLM may take over weights, unless it is told otherwise."""


class VLLMRolloutEngine:
    """Samples with running vLLMs whose weights it sets; their prefix caches keep the turns of a trajectory.

    A trajectory stays with one of them. Where that one dies, the turn under way is sampled anew by another, and so are
    those after it; a turn's randomness follows from its seed alone, so nothing but rounding depends on who samples it.
    vLLM batches whatever is asked at a time, and rounding depends on the batch: a turn repeats up to rounding only.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        model: nn.Module,
        stop_token_ids: frozenset[int],
        *,
        max_positions: int,
        dtype: torch.dtype,
        padded_head_size: int,
        sleeps: bool = False,
        timeout_s: float = PATIENCE_S,
    ) -> None:
        """Takes `model` over: its weights are handed over first, then only its structure is kept, for the proof.

        Args:
            backends: The running vLLMs, one or more.
            model: The model that they run, with the weights to begin with.
            stop_token_ids: Tokens that end a turn.
            max_positions: Tokens that fit into the context of each.
            dtype: Precision of vLLM's weights.
            padded_head_size: Entries of an attention head in vLLM's model.
            sleeps: Whether vLLM gives its memory back from `rest` to the next weights.
            timeout_s: Seconds without progress after which a vLLM that takes weights counts as dead.
        """
        config: Any = cast(Any, model).config.get_text_config()
        self._stop_token_ids = sorted(stop_token_ids)
        self._max_positions = max_positions
        self._dtype = dtype
        self._head_sizes = (head_size(config), padded_head_size)
        self._initial: Mapping[str, Tensor] | None = model.state_dict()
        self._names = WeightNames(self._initial)
        proof = Proof(Reference(model), probe_prompt(config.vocab_size, max_positions), dtype)
        self._members = [Member(backend, proof) for backend in backends]
        self._version = 0
        self._loading = asyncio.Lock()
        self._clock = BusyClock()  # an update in another thread reads it too
        self._sleeps = sleeps
        self._timeout_s = timeout_s
        self._is_proven = self._is_closed = False

    @property
    def busy_s(self) -> float:
        """Seconds in which at least one request was under way or weights were being loaded."""
        return self._clock.seconds

    def session(self) -> "VLLMSession":
        """Begins a trajectory; vLLM itself finds what it knows of it by its tokens."""
        return VLLMSession(self)

    async def generate(self, token_ids: Sequence[int], sampling: Sampling, session: "VLLMSession") -> Completion:
        """Samples one turn after `token_ids`; aborted and empty where the context has no room left for it.

        Raises:
            RuntimeError: The engine is closed, vLLM failed, or its weights are not those that it was given last.
            NoVLLMLeft: None answers.
            FloatingPointError: A log-prob is not finite.
        """
        if not token_ids:
            raise ValueError("generate needs at least one prompt token")
        await self._begin()
        room = min(sampling.max_new_tokens, self._max_positions - len(token_ids))
        if room < 1:
            reason = FinishReason.abort
            return Completion(token_ids=(), logprobs=(), finish_reason=reason, policy_version=self._version)
        params = {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "max_tokens": room,
            "stop_token_ids": self._stop_token_ids,
        }
        with self._clock.running():
            while True:
                member = session.placed(self._least_busy)
                try:
                    sampled = await member.generate(token_ids, params)
                    break
                except Gone as error:
                    self._leave_out(member, error)
        return Completion(
            token_ids=sampled.token_ids,
            logprobs=sampled.logprobs,
            finish_reason=FinishReason(sampled.finish_reason),
            policy_version=self._version,
        )

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Hands `weights` over to every vLLM, empties the prefix caches, and proves that they arrived.

        The proof has three parts. The workers say the digest of every tensor that they loaded. A fixed prompt is
        sampled from, and the log-probs must be those that the weights themselves give (`PROBE_BOUNDS`). And they must
        not be to the bit those of the weights before, if most tensors changed.

        A vLLM that was left out is asked whether it is there again.

        Raises:
            ValueError: If names or shapes are not exactly the model's; tied weights may be named once.
            RuntimeError: While turns are being sampled, or where the proof fails.
            NoVLLMLeft: None takes them.
        """
        if self._is_closed:
            raise RuntimeError("load_weights was called on a closed engine")
        if self._clock.is_running:
            raise RuntimeError("load_weights was called while turns are being sampled")
        weights = self._names.complete(weights)
        self._is_proven, self._initial = False, None
        sent = wire_weights(padded_weights(weights, *self._head_sizes), self._dtype)
        with self._clock.running(), Transfer(weights, sent, self._timeout_s) as transfer:
            supplied = (self._supply(member, transfer, version) for member in self._members)
            for failure in await asyncio.gather(*supplied, return_exceptions=True):
                if failure is not None:
                    raise failure
        if all(member.is_out for member in self._members):
            self._give_up()
        self._version = version
        self._is_proven = True

    async def rest(self) -> None:
        """Puts vLLM to sleep where it was started for that: without weights and cache, until `load_weights`.

        One that is dead is left out: what was sampled is worth an update first.

        Raises:
            RuntimeError: While turns are being sampled.
        """
        if not self._sleeps or self._is_asleep:
            return
        if self._clock.is_running:
            raise RuntimeError("rest was called while turns are being sampled")
        self._initial = None
        await asyncio.gather(*(self._put_to_sleep(member) for member in self._members if not member.is_out))

    async def close(self) -> None:
        """Ends the processes that were started; safe to call twice."""
        self._is_closed = True
        self._initial = None
        await asyncio.gather(*(member.backend.close() for member in self._members))

    @property
    def _is_asleep(self) -> bool:
        return any(member.is_asleep for member in self._members if not member.is_out)

    async def _begin(self) -> None:
        """Before the first turn: hands over the weights of the model, unless others were given since."""
        if self._is_closed:
            raise RuntimeError("generate was called on a closed engine")
        async with self._loading:
            if self._initial is not None:
                await self.load_weights(self._initial, 0)
        if self._is_asleep:
            raise RuntimeError("generate was called while vLLM sleeps: load_weights wakes it")
        if not self._is_proven:
            raise RuntimeError("generate was called after a hand-over of weights that failed")

    async def _supply(self, member: Member, transfer: Transfer, version: int) -> None:
        """Gives one vLLM the weights; one that was left out only if it is there again."""
        name = member.backend.name
        try:
            if member.is_out and not await self._is_back(member):
                return
            await member.take(transfer, version)
        except Gone as error:
            self._leave_out(member, error)
            return
        if member.is_out:
            member.is_out = False
            _warn(f"{name} is there again, and samples from version {version} of the weights on")

    async def _put_to_sleep(self, member: Member) -> None:
        try:
            await member.sleep()
        except Gone as error:
            self._leave_out(member, error)

    async def _is_back(self, member: Member) -> bool:
        """Whether one that was left out is there again, as it was; says so once where something else is there."""
        try:
            await member.backend.meet()
        except ValueError as error:
            if (reason := str(error)) != member.reason:
                _warn(f"{member.backend.name} is not taken back: {reason}")
                member.reason = reason
            return False
        return True

    def _least_busy(self) -> Member:
        """The vLLM with the fewest trajectories."""
        there = [member for member in self._members if not member.is_out]
        return min(there, key=lambda member: member.num_sessions) if there else self._give_up()

    def _leave_out(self, member: Member, error: Gone) -> None:
        """Asks a vLLM no more until the next hand-over, and says so once."""
        if member.is_out:
            return
        member.leave_out(str(error))
        if num_left := sum(not other.is_out for other in self._members):
            _warn(
                f"{member.backend.name} is left out until weights are handed over again, its turns are sampled on the "
                f"other {num_left}: {error}"
            )

    def _give_up(self) -> NoReturn:
        ends = "; ".join(f"{member.backend.name}: {member.reason}" for member in self._members)
        raise NoVLLMLeft(f"no vLLM is left to sample with: {ends}")


class VLLMSession:
    """One trajectory's turns, and the vLLM that samples them."""

    def __init__(self, engine: VLLMRolloutEngine) -> None:
        self._engine = engine
        self._member: Member | None = None

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Samples one turn after `token_ids`."""
        return await self._engine.generate(token_ids, sampling, self)

    def placed(self, choose: Callable[[], Member]) -> Member:
        """The vLLM that samples the next turn: the same as before, or one that is chosen where that is out."""
        if self._member is None or self._member.is_out:
            self.close()
            self._member = choose()
            self._member.num_sessions += 1
        return self._member

    def close(self) -> None:
        """Counts no more for the vLLM, which drops what it knows when it needs the room."""
        if self._member is not None:
            self._member.num_sessions -= 1
            self._member = None


def _warn(text: str) -> None:
    """Tells the user, on every rank: other warnings come from the first alone, but each rank has servers of its own."""
    LOGGER.error("warning: %s", text)
