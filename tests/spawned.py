"""What tests have spawned processes do; these import this file, and know nothing of pytest."""

import os
from multiprocessing import Queue


def tell_surroundings(queue: "Queue[dict[str, str | int]]") -> None:
    """Puts the environment, the session and the parent of this process."""
    queue.put({**os.environ, "session": os.getsid(0), "parent": os.getppid()})
