"""One trainer that is connected to a broker: what it says, and what it is answered."""

import asyncio
import dataclasses
import traceback
from typing import Any

from turnwise.env.sandbox.messages import encode, take
from turnwise.env.sandbox.room import Room, Session, cancel
from turnwise.env.sandbox.settings import Settings
from turnwise.env.sandbox.zygotes import SandboxFailure


class Client(asyncio.Protocol):
    """One trainer that is connected."""

    def __init__(self, room: Room, received: bytearray | None = None) -> None:
        self._room = room
        self._received = bytearray() if received is None else received
        self._answers: dict[int, asyncio.Task[None]] = {}
        self._sessions: dict[int, Session] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._room.clients.add(self)
        self.data_received(b"")  # what had come before

    def data_received(self, data: bytes) -> None:
        """It says something."""
        self._received += data
        while (message := take(self._received)) is not None:
            self._heed(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone: all that runs for it ends."""
        asyncio.create_task(self.leave())  # noqa: RUF006 -- the room holds its client until it is done

    async def leave(self) -> None:
        """Ends all that runs for it; safe to call twice."""
        try:
            await cancel(self._answers.values())
            for session in self._sessions.values():
                session.discard()
            await asyncio.gather(*self._closing, return_exceptions=True)
            self._transport.close()
        finally:
            self._room.clients.discard(self)
            if not self._room.clients:
                self._room.is_left.set()

    def _heed(self, message: dict[str, Any]) -> None:
        match message:
            case {"hello": settings}:
                self._say({"differing": differences(self._room.settings, Settings(**settings)), **self._room.facts()})
            case {"id": number, "run": request, **rest}:
                session = self._sessions.setdefault(rest["session"], Session()) if "session" in rest else None
                self._answers[number] = task = asyncio.create_task(self._answer(number, request, session))
                task.add_done_callback(lambda _: self._answers.pop(number))
                if session is not None:
                    session.answers.add(task)
                    task.add_done_callback(session.answers.discard)
            case {"cancel": number} if number in self._answers:
                self._answers[number].cancel()
            case {"close": name} if name in self._sessions:
                self._closing.add(task := asyncio.create_task(self._sessions.pop(name).close()))
                task.add_done_callback(self._closing.discard)
            case {"ping": number}:
                self._say({"pong": number})

    async def _answer(self, number: int, request: dict[str, Any], session: Session | None) -> None:
        try:
            self._say({"id": number, "result": await self._room.run(request, session)})
        except asyncio.CancelledError:
            self._say({"id": number, "failure": "the program was cancelled, or its session closed"})
            raise
        except Exception as error:  # whatever it is, a trainer waits for an answer
            if not isinstance(error, (SandboxFailure, OSError)):
                traceback.print_exc()
            self._say({"id": number, "failure": str(error) or type(error).__name__})

    def _say(self, message: dict[str, Any]) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode(message))


def differences(settings: Settings, wanted: Settings) -> str:
    """The fields in which a trainer's settings are not those of the broker: `wall_s=5.0, not 3.0`."""
    ours, theirs = dataclasses.asdict(settings), dataclasses.asdict(wanted)
    del ours["forbidden"]  # which says nothing to anybody
    return ", ".join(f"{name}={ours[name]}, not {theirs[name]}" for name in ours if ours[name] != theirs[name])
