"""A running vLLM as the engine sees it, whichever way it is reached."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

SLEEP_LEVEL = 2
"""vLLM's: weights are thrown away too, not kept on the host, since all of them are handed over on waking."""
WEIGHTS, CACHE = "weights", "kv_cache"
"""vLLM's names of the parts of its memory that can be woken one by one."""


UNLABELLED = "default"
"""The label that vLLM gives to the weights it starts with."""


class Gone(RuntimeError):
    """A vLLM is dead, stuck or out of reach: what it was asked can be asked of another one."""


class NoVLLMLeft(RuntimeError):
    """Every vLLM of an engine is `Gone`; the text says how each one ended."""


class Sampled(NamedTuple):
    """What vLLM answers: the tokens, their log-probs, why it stopped, the label of the weights."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    weights: str


class Backend(Protocol):
    """A running vLLM, in child processes or behind HTTP.

    A call that finds it dead, stuck or out of reach raises `Gone`; any other failure is another RuntimeError.
    """

    @property
    def name(self) -> str:
        """What a user calls it."""
        ...

    @property
    def network(self) -> str | None:
        """The address of this host from which its workers fetch weights; None: they read this host's shared memory."""
        ...

    async def meet(self) -> None:
        """Asks one that was `Gone` whether it is there again, as it was.

        Raises:
            Gone: It is not.
            ValueError: Something else is there: another model, or a vLLM that was started otherwise.
        """
        ...

    async def generate(self, token_ids: Sequence[int], sampling: Mapping[str, Any]) -> Sampled:
        """Samples after `token_ids` with the fields of vLLM's `SamplingParams`."""
        ...

    async def call_workers(self, method: str, argument: str) -> list[Any]:
        """Calls a method of every worker; the answers."""
        ...

    async def forget_prefixes(self) -> bool:
        """Empties the prefix cache; whether it did."""
        ...

    async def label_weights(self, label: str) -> None:
        """What completions will say of the weights that sampled them."""
        ...

    async def sleep(self) -> None:
        """Throws weights and cache away and gives their memory back; only where vLLM was started with `sleep`."""
        ...

    async def wake(self, part: str) -> bool:
        """Takes memory again for `part`, WEIGHTS or CACHE, without its content; whether vLLM is all awake."""
        ...

    async def close(self) -> None:
        """Ends what was started; safe to call twice."""
        ...
