"""An engine that is listened to, so that what it sampled is known from itself."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from turnwise.protocols import EngineSession, RolloutEngine
from turnwise.types import Completion, Sampling


class Call(NamedTuple):
    """A turn that an engine was asked for: the tokens before it, and what it sampled."""

    token_ids: tuple[int, ...]
    completion: Completion


class RecordingEngine:
    """Passes everything on to another engine and keeps every call by its sampling seed; fulfils `RolloutEngine`."""

    def __init__(self, engine: RolloutEngine) -> None:
        self.calls: dict[int, Call] = {}
        self._engine = engine

    @property
    def busy_s(self) -> float:
        """That of the engine."""
        return self._engine.busy_s

    def session(self) -> "RecordingSession":
        """Begins a trajectory."""
        return RecordingSession(self._engine.session(), self.calls)

    async def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Passes them on."""
        await self._engine.load_weights(weights, version)

    async def rest(self) -> None:
        """Passes it on."""
        await self._engine.rest()

    async def close(self) -> None:
        """Ends the engine."""
        await self._engine.close()


class RecordingSession:
    """A session of a `RecordingEngine`."""

    def __init__(self, session: EngineSession, calls: dict[int, Call]) -> None:
        self._session = session
        self._calls = calls

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Samples one turn, and keeps it."""
        completion = await self._session.generate(token_ids, sampling)
        self._calls[sampling.seed] = Call(tuple(token_ids), completion)
        return completion

    def close(self) -> None:
        """Ends the session."""
        self._session.close()
