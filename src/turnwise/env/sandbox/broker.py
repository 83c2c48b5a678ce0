"""Runs programs for trainers, each in a process of its own: the far side of `turnwise.env.sandbox.link`, a script.

It starts from a bare environment and holds nothing but its sockets: no answer, no checkpoint and no key was ever in its
memory. Two zygotes fork the processes: one that is there at once, and one that has imported slow modules beforehand. It
ends when no trainer is connected any more, and everything ends with it. What is said on a socket:

    settings                                     first, of the trainer that started it; no answer
    {"hello": settings}                          -> {"differing", "failure", "lacking": text, and `Room.facts`}
    {"id", "run": request}                       -> {"id", "result": ...} or {"id", "failure": text}
    {"id", "run": request, "session": number}    -> the same, with the variables of the session's programs before
    {"cancel": id}, {"close": session}           no answer: what runs is killed
    {"ping": id}                                 -> {"pong": id}

A request is `{"code", "is_traceback", "shows_value"}`, a result what `turnwise.env.sandbox.process` says.
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from turnwise.env.sandbox.child import MAX_DESCRIPTORS
from turnwise.env.sandbox.client import Client
from turnwise.env.sandbox.isolation import adopt_orphans
from turnwise.env.sandbox.messages import take
from turnwise.env.sandbox.room import Room
from turnwise.env.sandbox.settings import Settings

CHUNK_BYTES = 1 << 16


async def serve(first: socket.socket, folder: str) -> None:
    """Serves the trainer at the other end of `first`, who sends the settings, and those that connect to their socket.

    What it needs on disk is in `folder`, which it removes at the end.
    """
    Path(folder).chmod(0o711)  # for the users that programs run as
    received = bytearray()
    while (told := take(received)) is None:
        if not (chunk := first.recv(CHUNK_BYTES)):
            return
        received += chunk
    settings = Settings(**told)
    room = Room(settings, folder)
    loop, listens_at = asyncio.get_running_loop(), None
    loop.add_signal_handler(signal.SIGTERM, room.is_left.set)
    try:
        await room.start()
        if settings.socket and not room.failure and not room.lacking:
            listens_at = await _listen(settings.socket, lambda: Client(room))
        await loop.create_connection(lambda: Client(room, received), sock=first)
        await room.is_left.wait()
    finally:
        if listens_at is not None and _identity(settings.socket) == listens_at:
            Path(settings.socket).unlink()
        await asyncio.gather(*(client.leave() for client in room.clients))
        await room.close()


async def _listen(path: str, client: Callable[[], Client]) -> tuple[int, int]:
    """Listens at `path`, for this user alone; by the identity that is returned the place is known again."""
    mask = os.umask(0o177)
    try:
        await asyncio.get_running_loop().create_unix_server(client, path)
    finally:
        os.umask(mask)
    identity = _identity(path)
    assert identity is not None
    return identity


def _identity(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        status = Path(path).stat()
        return status.st_dev, status.st_ino
    return None


if __name__ == "__main__":
    os.dup2(2, 1)
    adopt_orphans()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, MAX_DESCRIPTORS), most))
    asyncio.run(serve(socket.socket(fileno=0), sys.argv[1]))
