"""One vLLM of an engine: what it samples is checked, and the weights that it is given are proven."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from turnwise.engine.vllm.backend import CACHE, UNLABELLED, WEIGHTS, Backend, Gone, Sampled
from turnwise.engine.vllm.probe import PROBE_BOUNDS, PROBE_TEMPERATURE, PROBE_TURN, Reference
from turnwise.engine.vllm.transfer import Transfer

NOT_FINITE = -9999.0
"""What vLLM's server writes for a log-prob that is not finite."""


class Proof(NamedTuple):
    """What a vLLM must answer after a hand-over: `reference` knows the log-probs of turns after `prompt`."""

    reference: Reference
    prompt: Sequence[int]
    dtype: torch.dtype


class Member:
    """A vLLM, the weights that it holds, and the turns that are asked of it.

    Attributes:
        num_sessions: Trajectories whose turns it samples.
        is_out: Whether it is `Gone`; it is asked nothing then but whether it is there again.
        reason: Why it is out.
        is_asleep: Whether its weights and cache are thrown away.
    """

    def __init__(self, backend: Backend, proof: Proof) -> None:
        self.backend = backend
        self.num_sessions = 0
        self.is_out = self.is_asleep = False
        self.reason = ""
        self._proof = proof
        self._name = secrets.token_hex(4)  # a server may be asked by others, who count their versions too
        self._label = ""
        self._asked: set[asyncio.Future[Sampled]] = set()
        self._probed: Sampled | None = None
        self._digests: Mapping[str, int] = {}

    async def generate(self, token_ids: Sequence[int], params: Mapping[str, Any]) -> Sampled:
        """Samples after `token_ids` with the weights that were taken last.

        Raises:
            Gone: It did not answer, has been left out meanwhile, or was started anew since it took its weights.
            RuntimeError: It sampled with other weights.
            FloatingPointError: A log-prob is not finite.
        """
        asked = asyncio.ensure_future(self.backend.generate(token_ids, fields(**params)))
        self._asked.add(asked)
        try:
            await asyncio.wait((asked,))
            if asked.cancelled():
                raise Gone(self.reason)
            sampled = asked.result()
        finally:
            self._asked.discard(asked)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        if not all(logprob > NOT_FINITE for logprob in sampled.logprobs):
            raise FloatingPointError(f"the model's logits are not finite after {len(token_ids)} tokens")
        if sampled.weights != self._label:
            if sampled.weights == UNLABELLED:
                raise Gone("it was started anew and holds other weights")
            raise RuntimeError(
                f"{self.backend.name} sampled with the weights {sampled.weights!r}, expected {self._label!r}"
            )
        return sampled

    def leave_out(self, reason: str) -> None:
        """Asks it no more; turns under way end as `Gone`."""
        self.is_out, self.reason = True, reason
        for asked in self._asked:
            asked.cancel()

    async def take(self, transfer: Transfer, version: int) -> None:
        """Loads the weights, empties the prefix cache, and proves that the weights arrived.

        A vLLM that sleeps wakes for it: its weights first, and the prefix cache when they have arrived, so that the
        copies of a hand-over and an idle cache never take memory at the same time.

        Raises:
            Gone: It is dead, stuck or out of reach.
            RuntimeError: The proof fails.
        """
        backend = self.backend
        self._label = ""  # which no answer bears: whatever fails from here on, nothing is sampled with older weights
        if self.is_asleep:
            await backend.wake(WEIGHTS)
        await transfer.deliver(backend)
        if self.is_asleep:
            if not await backend.wake(CACHE):
                raise RuntimeError("vLLM did not wake up: it would keep the next turn waiting for ever")
            self.is_asleep = False
        if not await backend.forget_prefixes():
            raise RuntimeError(f"{backend.name} did not empty its prefix cache: does another run use the same server?")
        self._label = f"{self._name}/{version}"
        await backend.label_weights(self._label)
        await self._prove(transfer)

    async def sleep(self) -> None:
        """Throws weights and cache away, until the next hand-over."""
        self.is_asleep = True
        await self.backend.sleep()

    async def _prove(self, transfer: Transfer) -> None:
        reference, prompt, dtype = self._proof
        params = fields(temperature=PROBE_TEMPERATURE, seed=0, max_tokens=PROBE_TURN)
        probed = await self.backend.generate(prompt, params)
        expected = reference.logprobs(transfer.weights, prompt, probed.token_ids, PROBE_TEMPERATURE)
        gap = (torch.tensor(probed.logprobs, dtype=torch.float64) - expected).abs().max().item()
        if not gap <= (bound := PROBE_BOUNDS[dtype]):
            raise RuntimeError(
                f"the weights did not reach {self.backend.name}, or it computes something else: its log-probs of the "
                f"probe are off by {gap:.3g}, expected at most {bound} with {str(dtype).removeprefix('torch.')}"
            )
        num_changed = sum(self._digests.get(name) != value for name, value in transfer.digests.items())
        is_same = self._probed is not None and self._probed[:2] == probed[:2]
        if is_same and 2 * num_changed > len(transfer.digests):
            raise RuntimeError(
                f"the weights did not reach {self.backend.name}: {num_changed} of {len(transfer.digests)} tensors "
                f"changed, and its answer to the probe did not"
            )
        self._probed, self._digests = probed, transfer.digests


def fields(**given: Any) -> dict[str, Any]:
    """Fields of `SamplingParams`: the sampled token's log-prob, no text, and no stop token but the given ones."""
    return {"logprobs": 0, "detokenize": False, "ignore_eos": True, **given}
