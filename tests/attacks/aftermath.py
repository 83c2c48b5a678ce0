"""What is left after a thousand programs, and after broker or zygotes are killed."""

import asyncio
import collections
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from attacks import census
from attacks.catalogue import load
from attacks.outside import Outside
from turnwise.env.sandbox.interface import ProgramResult
from turnwise.types import ToolStatus

if TYPE_CHECKING:
    from attacks.runner import Suite

NUM_PROGRAMS, AT_ONCE = 1000, 6
GRACE_S = 5.0
"""How long what is left of a killed broker may take to end."""
ORDINARY = (
    "print(sum(range(100)))",
    "import numpy as np\nprint(np.arange(4).sum())",
    "open('file', 'w').write('x' * 1000)\nraise ValueError",
    "import os\nos.makedirs('a/b/c')\nopen('a/b/c/d', 'w').close()",
    "import threading\nthreading.Thread(target=print, args=('there',)).start()",
)
CANCELLED = "import time\nopen('file', 'w').close()\ntime.sleep(60)"


async def run_mixture(suite: "Suite") -> dict[str, Any]:
    """Programs of every kind side by side: half of them attacks, a tenth in sessions, some given up by who asked."""
    chance = random.Random(0)
    attacks = [one for one in load() if not (one.hindrance or any(ToolStatus.timeout in ends for ends in one.ends))]
    before = census.census()
    folder = Path(tempfile.mkdtemp(prefix="outside-"))
    around = Outside(suite.pool, folder, suite.processes)
    await around.prepare(with_sibling=True)
    room, statuses, failures = asyncio.Semaphore(AT_ONCE), collections.Counter[str](), []

    def note(result: ProgramResult) -> None:
        statuses[result.status] += 1
        if result.status is ToolStatus.infrastructure:
            failures.append(result.stderr)

    async def run(number: int) -> None:
        async with room:
            attack = chance.choice(attacks)
            if number % 50 == 0:
                with_limit = asyncio.wait_for(suite.pool.run(CANCELLED), chance.uniform(0.0, 0.1))
                await asyncio.gather(with_limit, return_exceptions=True)
                statuses["cancelled"] += 1
            elif number % 2 == 0:
                programs = [attack.program(turn, around.bait) for turn in range(len(attack.turns))]
                interpreter = suite.pool.session() if attack.is_session else suite.pool
                for program in programs:
                    note(await interpreter.run(program))
                if attack.is_session:
                    await interpreter.close()
            else:
                note(await suite.pool.run(chance.choice(ORDINARY)))

    await asyncio.gather(*map(run, range(NUM_PROGRAMS)))
    await around.close()
    shutil.rmtree(folder)
    return {"statuses": statuses, "failures": sorted(set(failures)), "left": await _left(before)}


async def _left(before: dict[str, Any]) -> dict[str, Any]:
    """What is other than before; what was told to end may take a moment."""
    left = census.differences(before, census.census())
    deadline = time.monotonic() + GRACE_S
    while left and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        left = census.differences(before, census.census())
    return left


async def bereave(suite: "Suite") -> dict[str, Any]:
    """Kills the broker, and each process of the zygotes, while programs run that want to outlive it."""
    attacks = [one for one in load() if one.family == "outliving" and not one.hindrance]
    survivors: dict[str, list[int]] = {}
    for victim in ("BROKER", "ZYGOTES"):
        await suite.warm_up()
        idle = {one.pid for one in census.descendants()}
        bait = {"TRAINER": os.getpid(), **suite.processes}
        runs = [asyncio.create_task(suite.pool.run(one.program(0, bait))) for one in attacks]
        while len(there := census.descendants()) < len(idle) + min(len(runs), suite.num_workers):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # they get ready
        doomed = [one for one in there if victim == "BROKER" or one.pid not in idle]
        killed = suite.processes[victim]
        for pid in [killed] if isinstance(killed, int) else killed:
            with contextlib.suppress(ProcessLookupError):  # which ended with the one before it
                os.kill(pid, signal.SIGKILL)
        survivors[victim] = await _alive(doomed, suite.processes["BROKER"])
        for one in runs:
            one.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
    return {"survivors": survivors, "next": await suite.look_at_next(is_same=False)}


async def _alive(doomed: list[psutil.Process], broker: int) -> list[int]:
    """Those that do not end, which are ended then."""
    alive, deadline = doomed, time.monotonic() + GRACE_S
    while (alive := [one for one in alive if census.runs(one.pid)]) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    for one in alive:
        one.kill()
    for one in doomed:
        with contextlib.suppress(ChildProcessError):  # those that did not become orphans, and came to this process
            if one.pid != broker:
                os.waitpid(one.pid, 0)
    return [one.pid for one in alive]
