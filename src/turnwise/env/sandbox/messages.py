"""What the processes of the sandbox say to each other: JSON with its length before it."""

import json
from typing import Any

HEADER_BYTES = 4


def encode(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    payload = json.dumps(message).encode()
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def take(received: bytearray) -> dict[str, Any] | None:
    """Takes the first message out of what was received; None until all of it is there.

    Raises:
        ValueError: It is no object of JSON.
    """
    end = HEADER_BYTES + int.from_bytes(received[:HEADER_BYTES], "big")
    if len(received) < max(end, HEADER_BYTES):
        return None
    payload = received[HEADER_BYTES:end]
    del received[:end]
    try:
        message = json.loads(payload)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message
