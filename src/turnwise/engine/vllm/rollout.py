"""What both vLLM engines are: sessions, the hand-over of weights with its proof, and the seconds they computed."""

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from turnwise.engine.vllm.backend import CACHE, WEIGHTS, Backend, Sampled
from turnwise.engine.vllm.handover import WeightNames, in_shared_memory, wire_weights
from turnwise.engine.vllm.heads import head_size, padded_weights
from turnwise.engine.vllm.probe import PROBE_BOUNDS, PROBE_TEMPERATURE, PROBE_TURN, Reference, probe_prompt
from turnwise.engine.vllm.worker import digest
from turnwise.types import Completion, FinishReason, Sampling

NOT_FINITE = -9999.0
"""What vLLM's server writes for a log-prob that is not finite."""


class VLLMRolloutEngine:
    """Samples with a running vLLM whose weights it sets; its prefix cache keeps the turns of a trajectory.

    vLLM batches whatever is asked at a time, and rounding depends on the batch: a turn repeats up to rounding only.
    """

    def __init__(
        self,
        backend: Backend,
        model: nn.Module,
        stop_token_ids: frozenset[int],
        *,
        max_positions: int,
        dtype: torch.dtype,
        padded_head_size: int,
        sleeps: bool = False,
    ) -> None:
        """Takes `model` over: its weights are handed over first, then only its structure is kept, for the proof.

        Args:
            backend: The running vLLM.
            model: The model that it runs, with the weights to begin with.
            stop_token_ids: Tokens that end a turn.
            max_positions: Tokens that fit into vLLM's context.
            dtype: Precision of vLLM's weights.
            padded_head_size: Entries of an attention head in vLLM's model.
            sleeps: Whether vLLM gives its memory back from `rest` to the next weights.
        """
        config: Any = cast(Any, model).config.get_text_config()
        self._backend = backend
        self._stop_token_ids = sorted(stop_token_ids)
        self._max_positions = max_positions
        self._dtype = dtype
        self._head_sizes = (head_size(config), padded_head_size)
        self._initial: Mapping[str, Tensor] | None = model.state_dict()
        self._names = WeightNames(self._initial)
        self._reference = Reference(model)
        self._probe = probe_prompt(config.vocab_size, max_positions)
        self._probed: Sampled | None = None
        self._digests: dict[str, int] = {}
        self._name = secrets.token_hex(4)  # a server may be asked by others, who count their versions too
        self._version = 0
        self._loading = asyncio.Lock()
        self._clock = threading.Lock()  # an update in another thread reads it too
        self._num_asked = 0
        self._busy_s = self._busy_since = 0.0
        self._sleeps = sleeps
        self._is_proven = self._is_asleep = self._is_closed = False

    @property
    def busy_s(self) -> float:
        """Seconds in which at least one request was under way or weights were being loaded."""
        with self._clock:
            return self._busy_s + (time.perf_counter() - self._busy_since if self._num_asked else 0.0)

    def session(self) -> "VLLMSession":
        """Begins a trajectory; vLLM itself finds what it knows of it by its tokens."""
        return VLLMSession(self)

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Samples one turn after `token_ids`; aborted and empty where the context has no room left for it.

        Raises:
            RuntimeError: The engine is closed, vLLM failed, or its weights are not those that it was given last.
            FloatingPointError: A log-prob is not finite.
        """
        if not token_ids:
            raise ValueError("generate needs at least one prompt token")
        await self._begin()
        room = min(sampling.max_new_tokens, self._max_positions - len(token_ids))
        if room < 1:
            reason = FinishReason.abort
            return Completion(token_ids=(), logprobs=(), finish_reason=reason, policy_version=self._version)
        with self._busy():
            sampled = await self._backend.generate(
                token_ids,
                self._params(
                    temperature=sampling.temperature,
                    top_k=sampling.top_k,
                    top_p=sampling.top_p,
                    seed=sampling.seed,
                    max_tokens=room,
                    stop_token_ids=self._stop_token_ids,
                ),
            )
        if not all(logprob > NOT_FINITE for logprob in sampled.logprobs):
            raise FloatingPointError(f"the model's logits are not finite after {len(token_ids)} tokens")
        if sampled.weights != (expected := self._label()):
            raise RuntimeError(f"vLLM sampled with the weights {sampled.weights!r}, expected {expected!r}")
        return Completion(
            token_ids=sampled.token_ids,
            logprobs=sampled.logprobs,
            finish_reason=FinishReason(sampled.finish_reason),
            policy_version=self._version,
        )

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Hands `weights` over through shared memory, empties the prefix cache, and proves that they arrived.

        The proof has three parts. The workers say the digest of every tensor that they loaded. A fixed prompt is
        sampled from, and the log-probs must be those that the weights themselves give (`PROBE_BOUNDS`). And they must
        not be to the bit those of the weights before, if most tensors changed.

        A vLLM that sleeps wakes for it: its weights first, and the prefix cache when they have arrived, so that the
        copies of a hand-over and an idle cache never take memory at the same time.

        Raises:
            ValueError: If names or shapes are not exactly the model's; tied weights may be named once.
            RuntimeError: While turns are being sampled, or where the proof fails.
        """
        if self._is_closed:
            raise RuntimeError("load_weights was called on a closed engine")
        if self._num_asked:
            raise RuntimeError("load_weights was called while turns are being sampled")
        weights = self._names.complete(weights)
        self._is_proven, self._initial = False, None
        with self._busy():
            if self._is_asleep:
                await self._backend.wake(WEIGHTS)
            digests = await self._hand_over(weights)
            if self._is_asleep:
                if not await self._backend.wake(CACHE):
                    raise RuntimeError("vLLM did not wake up: it would keep the next turn waiting for ever")
                self._is_asleep = False
            if not await self._backend.forget_prefixes():
                raise RuntimeError("vLLM did not empty its prefix cache: does another run use the same server?")
            self._version = version
            await self._backend.label_weights(self._label())
            await self._prove(weights, digests)
        self._is_proven = True

    async def rest(self) -> None:
        """Puts vLLM to sleep where it was started for that: without weights and cache, until `load_weights`.

        Raises:
            RuntimeError: While turns are being sampled.
        """
        if not self._sleeps or self._is_asleep:
            return
        if self._num_asked:
            raise RuntimeError("rest was called while turns are being sampled")
        self._is_asleep, self._initial = True, None
        await self._backend.sleep()

    async def close(self) -> None:
        """Ends the processes that were started; safe to call twice."""
        self._is_closed = True
        self._initial = None
        await self._backend.close()

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

    async def _hand_over(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        sent = wire_weights(padded_weights(weights, *self._head_sizes), self._dtype)
        digests = {name: digest(tensor) for name, tensor in sent.items()}
        with in_shared_memory(sent) as path:
            received = await self._backend.call_workers("receive_weights", str(path))
        for worker, found in enumerate(received):
            wrong = sorted(name for name in digests if found.get(name) != digests[name])
            if wrong:
                raise RuntimeError(
                    f"the weights did not reach vLLM: worker {worker} misses {len(wrong)} of {len(digests)} tensors or "
                    f"read them otherwise, {wrong[0]} first"
                )
        return digests

    async def _prove(self, weights: Mapping[str, Tensor], digests: dict[str, int]) -> None:
        probed = await self._backend.generate(
            self._probe, self._params(temperature=PROBE_TEMPERATURE, seed=0, max_tokens=PROBE_TURN)
        )
        expected = self._reference.logprobs(weights, self._probe, probed.token_ids, PROBE_TEMPERATURE)
        gap = (torch.tensor(probed.logprobs, dtype=torch.float64) - expected).abs().max().item()
        if not gap <= (bound := PROBE_BOUNDS[self._dtype]):
            raise RuntimeError(
                f"the weights did not reach vLLM, or it computes something else: its log-probs of the probe are off by "
                f"{gap:.3g}, expected at most {bound} with {str(self._dtype).removeprefix('torch.')}"
            )
        num_changed = sum(self._digests.get(name) != value for name, value in digests.items())
        is_same = self._probed is not None and self._probed[:2] == probed[:2]
        if is_same and 2 * num_changed > len(digests):
            raise RuntimeError(
                f"the weights did not reach vLLM: {num_changed} of {len(digests)} tensors changed, and its answer to "
                f"the probe did not"
            )
        self._probed, self._digests = probed, digests

    def _params(self, **given: Any) -> dict[str, Any]:
        """Fields of `SamplingParams`: the sampled token's log-prob, no text, and no stop token but the given ones."""
        return {"logprobs": 0, "detokenize": False, "ignore_eos": True, **given}

    def _label(self) -> str:
        return f"{self._name}/{self._version}"

    @contextmanager
    def _busy(self) -> Iterator[None]:
        with self._clock:
            if not self._num_asked:
                self._busy_since = time.perf_counter()
            self._num_asked += 1
        try:
            yield
        finally:
            with self._clock:
                self._num_asked -= 1
                if not self._num_asked:
                    self._busy_s += time.perf_counter() - self._busy_since


class VLLMSession:
    """One trajectory's turns: all that it holds is the engine."""

    def __init__(self, engine: VLLMRolloutEngine) -> None:
        self._engine = engine

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Samples one turn after `token_ids`."""
        return await self._engine.generate(token_ids, sampling)

    def close(self) -> None:
        """Nothing to give back: vLLM drops what it knows when it needs the room."""
