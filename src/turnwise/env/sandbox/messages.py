"""What the two sides of a sandbox say to each other: JSON with its length before it."""

import json
from typing import IO, Any


def read_message(stream: IO[bytes]) -> dict[str, Any]:
    """One message; raises EOFError when the other side is gone and ValueError when it left in the middle."""
    header = stream.read(4)
    if len(header) < 4:
        raise EOFError("the other side is gone")
    return json.loads(stream.read(int.from_bytes(header, "big")))


def write_message(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Sends one message."""
    payload = json.dumps(message).encode()
    stream.write(len(payload).to_bytes(4, "big") + payload)
    stream.flush()
