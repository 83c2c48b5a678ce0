import asyncio
from collections.abc import Iterator

import pytest

from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox

DAEMON = """
import os, time
read_end, write_end = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write_end, b"%d" % os.getpid())
        time.sleep(60)
    os._exit(0)
print(os.read(read_end, 20).decode(), flush=True)
"""


@pytest.fixture(scope="session")
def sandbox_pool() -> Iterator[LocalPool]:
    """Two workers with default time limits, without isolation: what holds there holds everywhere."""
    pool = LocalPool(LocalSandbox(memory_mb=128), Tier.unsafe)
    yield pool
    asyncio.run(pool.close())


@pytest.fixture(scope="session")
def hasty_pool() -> Iterator[LocalPool]:
    """One worker, for programs that must hit the time limit or break their worker."""
    pool = LocalPool(LocalSandbox(num_workers=1, wall_s=0.5), Tier.unsafe)
    yield pool
    asyncio.run(pool.close())


@pytest.fixture
def daemon_code() -> str:
    """A program that leaves a process in a session of its own, which holds its output open, and prints its id."""
    return DAEMON
