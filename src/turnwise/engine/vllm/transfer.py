"""One hand-over of weights: prepared once, taken by any number of vLLMs, through shared memory or the network."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType

from torch import Tensor

from turnwise.engine.vllm.backend import Backend, Gone
from turnwise.engine.vllm.handover import in_shared_memory
from turnwise.engine.vllm.stream import Listener
from turnwise.engine.vllm.worker import digest


class Transfer:
    """Weights on their way. Within `with` they can be taken; on the way out their file and every open port are gone.

    Attributes:
        weights: The model's, under every name, as the trainer has them.
        digests: Of every tensor that is sent, by name.
    """

    def __init__(self, weights: Mapping[str, Tensor], sent: Mapping[str, Tensor], timeout_s: float) -> None:
        """Takes the weights as they are, and as they are sent: on the CPU, in the precision of vLLM.

        A vLLM that does not get on with taking them for `timeout_s` seconds counts as dead.
        """
        self.weights = weights
        self.digests = {name: digest(tensor) for name, tensor in sent.items()}
        self._sent = sent
        self._timeout_s = timeout_s
        self._opened = ExitStack()
        self._path: str | None = None
        self._listeners: dict[str, Listener] = {}

    def __enter__(self) -> "Transfer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._opened.close()

    async def deliver(self, backend: Backend) -> None:
        """Lets the workers of a vLLM load the weights.

        Raises:
            Gone: They did not get on with it.
            RuntimeError: Some tensor did not arrive as it was sent.
        """
        if backend.network is None:
            call = backend.call_workers("receive_weights", self._shared())
            received = await self._watched(asyncio.ensure_future(call), lambda: 0)
        else:
            offer = self._listener(backend.network).offer()
            call = backend.call_workers("fetch_weights", offer.text)
            received = await self._watched(asyncio.ensure_future(call), lambda: offer.num_slices)
        for worker, found in enumerate(received):
            wrong = sorted(name for name in self.digests if found.get(name) != self.digests[name])
            if wrong:
                raise RuntimeError(
                    f"the weights did not reach {backend.name}: worker {worker} misses {len(wrong)} of "
                    f"{len(self.digests)} tensors or read them otherwise, {wrong[0]} first"
                )

    async def _watched(
        self, call: "asyncio.Future[list[dict[str, int]]]", progress: Callable[[], int]
    ) -> list[dict[str, int]]:
        seen = -1
        try:
            while not call.done():
                if (now := progress()) == seen:
                    raise Gone(f"it did not get on with taking weights for {self._timeout_s:g} s (engine.timeout_s)")
                seen = now
                await asyncio.wait((call,), timeout=self._timeout_s)
            return call.result()
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    def _shared(self) -> str:
        """The file in shared memory: one for all."""
        if self._path is None:
            self._path = str(self._opened.enter_context(in_shared_memory(self._sent)))
        return self._path

    def _listener(self, host: str) -> Listener:
        """Where weights can be fetched from `host`, an address of this machine: one port for all that know it."""
        if host not in self._listeners:
            self._listeners[host] = listener = Listener(host, self._sent, self._timeout_s)
            self._opened.callback(listener.close)
        return self._listeners[host]
