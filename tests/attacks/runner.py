"""Runs the attacks in one tier as one user, in a process of its own, and prints what was found as JSON.

    PYTHONPATH=src:tests python -m attacks.runner A|B|unsafe [attacks] [mixture] [bereavement]

It prints a line for each attack, and one for each kind of run: all of them, where none is named. Root can run it as a
user without rights: `python -m attacks.ordinary_user -m attacks.runner A`.
"""

import asyncio
import ctypes
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from attacks import census, outside
from attacks.aftermath import bereave, run_mixture
from attacks.catalogue import Attack, Unisolated, load
from attacks.kernel_means import lacking
from turnwise.env.sandbox.interface import ProgramResult
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox
from turnwise.env.sandbox.settings import SOURCE
from turnwise.types import ToolStatus

SANDBOX = LocalSandbox(
    num_workers=6, wall_s=1.2, cpu_s=0.3, memory_mb=192, file_mb=8, scratch_mb=24, max_processes=64, preloaded=["numpy"]
)
AT_ONCE = 6
TRIED = (Unisolated.succeeds, Unisolated.holds)
"""The attacks that are tried without isolation."""
SLACK_S = 1.5
"""How much later than at the limit a program may end on a busy machine."""
ORDINARY = """
import math, json, os
open("mine", "x").write(str(math.sqrt(49)))
print(json.dumps([open("mine").read(), len(os.listdir()), sum(range(1000)), sorted("cab"), abs(-3), __name__]))
"""
ORDINARY_OUTPUT = '["7.0", 1, 499500, ["a", "b", "c"], 3, "__main__"]\n'
PR_SET_CHILD_SUBREAPER = 36


class Suite:
    """A pool, and the processes that it had before the first attack."""

    def __init__(self, pool: LocalPool) -> None:
        self.pool = pool
        self.num_workers = SANDBOX.num_workers
        self.processes: dict[str, Any] = {}

    async def warm_up(self) -> None:
        """Has both zygotes ready."""
        for code in (ORDINARY, "import numpy"):
            assert (await self.pool.run(code)).status is ToolStatus.ok
        names = {one.pid: " ".join(one.cmdline()) for one in census.descendants()}
        (broker,) = (pid for pid, line in names.items() if "broker.py" in line)
        zygotes = [pid for pid, line in names.items() if "zygote.py" in line]
        assert zygotes, names
        self.processes = {"BROKER": broker, "ZYGOTES": zygotes}

    async def attack(self, attack: Attack) -> dict[str, Any]:
        """Runs an attack, and says how it ended and what does not hold."""
        folder = Path(tempfile.mkdtemp(prefix="outside-"))
        around = outside.Outside(self.pool, folder, self.processes)
        failures: list[str] = []
        results: list[ProgramResult] = []
        try:
            await around.prepare(with_sibling=attack.needs_sibling)
            results = await self._run(attack, around.bait)
            failures += [*self._look_at(attack, results, around), *await outside.broken(around, attack.holds)]
            failures += await self.look_at_next()
        except (OSError, StopIteration) as error:
            failures.append(f"the suite itself failed: {type(error).__name__}: {error}")
        finally:
            await around.close()
            folder.chmod(0o777)
            shutil.rmtree(folder)
        told = [{"status": one.status.value, "output": one.output[:400], "wall_s": one.wall_s} for one in results]
        return {"family": attack.family, "name": attack.name, "failures": failures, "results": told}

    async def _run(self, attack: Attack, bait: dict[str, Any]) -> list[ProgramResult]:
        programs = [attack.program(turn, bait) for turn in range(len(attack.turns))]
        if not attack.is_session:
            return [await self.pool.run(programs[0], shows_value=True)]
        session = self.pool.session()
        try:
            return [await session.run(one, shows_value=True) for one in programs]
        finally:
            await session.close()

    def _look_at(self, attack: Attack, results: list[ProgramResult], around: outside.Outside) -> list[str]:
        """What must be true of the result of any program, whatever it did."""
        failures: list[str] = []
        most = SANDBOX.max_capture_bytes
        places = (str(SOURCE), sys.prefix, sys.base_prefix, "turnwise-sandbox-")
        may_end = [attack.may_end(turn, self.pool.isolation) for turn in range(len(attack.turns))]
        for result, ends in zip(results, may_end, strict=True):
            told = result.output
            if result.status not in ends:
                failures.append(f"it ended with {result.status}, expected {sorted(ends)}")
            if result.wall_s > SANDBOX.wall_s + SLACK_S:
                failures.append(f"it took {result.wall_s:.2f} s")
            if any(secret in told for secret in around.secrets):
                failures.append("it told a secret")
            if "ESCAPED" in told:
                failures.append("it says that it escaped")
            if any(place in told for place in places):
                failures.append("it named a place of this machine")
            if len(result.value) > most or len(told) > 2 * most:
                failures.append(f"more output than {most}: {[*map(len, (result.stdout, result.value, result.stderr))]}")
            if told.encode(errors="replace") != told.encode(errors="surrogatepass"):
                failures.append("its output is no text")
        if attack.prints is not None and results[-1].output != attack.prints:
            failures.append(f"it printed {results[-1].output[:200]!r}, expected {attack.prints!r}")
        return failures

    async def look_at_next(self, *, is_same: bool = True) -> list[str]:
        """What must be true of the sandbox after any program."""
        failures: list[str] = []
        result = await self.pool.run(ORDINARY)
        if (result.status, result.output) != (ToolStatus.ok, ORDINARY_OUTPUT):
            failures.append(f"the next program: {result.status}, {result.output[:200]}")
        own = [self.processes["BROKER"], *self.processes["ZYGOTES"]]
        if is_same and (gone := [pid for pid in own if not census.runs(pid)]):
            failures.append(f"broker or zygotes have ended: {gone}")
        return failures


async def run_attacks(suite: Suite) -> dict[str, Any]:
    """Every attack, several at a time; afterwards nothing is left of them."""
    is_isolated = suite.pool.isolation.name != Tier.unsafe.name
    attacks = [one for one in load() if is_isolated or one.unisolated in TRIED]
    before, room = census.census(), asyncio.Semaphore(AT_ONCE)

    async def one(attack: Attack) -> None:
        async with room:
            if attack.hindrance:
                report = {"family": attack.family, "name": attack.name, "hindrance": attack.hindrance}
            else:
                report = await suite.attack(attack)
        print(json.dumps(report), flush=True)

    await asyncio.gather(*map(one, attacks))
    return {"left": census.differences(before, census.census())}


async def main(kinds: list[str], tier: Tier) -> None:
    """Prints the findings of every kind of run, each of which has a pool of its own."""
    if reason := lacking(tier):
        print(json.dumps({"lacking": reason}))
        return
    for kind in kinds:
        empty = census.census()
        pool = SANDBOX.start_in(tier)
        suite = Suite(pool)
        try:
            await suite.warm_up()
            found = await RUNS[kind](suite)
        finally:
            await pool.close()
        found["left after close"] = census.differences(empty, census.census())
        print(json.dumps({"kind": kind, **found}), flush=True)


RUNS = {"attacks": run_attacks, "mixture": run_mixture, "bereavement": bereave}


def prepare() -> None:
    """Makes this process a trainer that has something to lose, and whose orphans come back to it."""
    outside.listen_for_signals()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    tier, *kinds = sys.argv[1:]
    prepare()
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder:
        Path(folder).chmod(0o755)
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        asyncio.run(main(kinds or list(RUNS), Tier(tier)))
