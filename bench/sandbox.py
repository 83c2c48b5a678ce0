"""Programs of the policy in the local sandbox, by tier, beside a plain subprocess for each of them."""

import asyncio
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil

from table import Table
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox
from turnwise.types import ToolStatus

PROGRAMS = {
    "light": "print(sum(range(100)))",
    "sympy": "import numpy, sympy\nprint(sympy.factorint(2**32 + 1), numpy.eye(2).sum())",
}
ROUNDS = 15
IN_FLIGHT = 8
NUM_CALLS = 400
NUM_IDLE = 64
START_ROUNDS = 5
SIZES = (100, 200, 400, 800)


def measure() -> dict[str, float | Table]:
    """Median seconds of one program, how many times longer a subprocess takes, and what isolation costs.

    `over_unsafe` is the time in a tier over that of the same processes without isolation; `start_s` is what a run waits
    for a broker and the canaries of the best tier. A session that has nothing to do, an idle slot, takes `session_mib`:
    its share of pages that others have too, and its own.
    """
    pools = {tier: LocalPool(LocalSandbox(num_workers=IN_FLIGHT), tier) for tier in Tier}
    figures: dict[str, float | Table] = {}
    with asyncio.Runner() as runner:
        for name, code in PROGRAMS.items():
            arms = {tier.value: lambda tier=tier, code=code: runner.run(_run(pools[tier], code)) for tier in Tier}
            taken = _medians({**arms, "subprocess": lambda code=code: _subprocess(code)})
            figures |= {
                f"{name}_A_s": taken["A"],
                f"{name}_subprocess_over_A": taken["subprocess"] / taken["A"],
                f"{name}_subprocess_over_B": taken["subprocess"] / taken["B"],
                f"{name}_A_over_unsafe": taken["A"] / taken["unsafe"],
                f"{name}_B_over_unsafe": taken["B"] / taken["unsafe"],
            }
        best = pools[Tier.A]
        latencies = sorted(runner.run(_latencies(best, NUM_CALLS)))
        figures["in_flight_p50_s"] = median(latencies)
        figures["in_flight_p99_over_p50"] = latencies[int(0.99 * NUM_CALLS)] / median(latencies)
        calls = sorted(runner.run(_session_calls(best)))
        figures["session_call_s"] = median(calls)
        figures["session_call_p99_s"] = calls[int(0.99 * NUM_CALLS)]
        figures["session_mib"] = runner.run(_session_mib(best))
        figures["programs"] = runner.run(_by_number(best))
        for pool in pools.values():
            runner.run(pool.close())
        figures["start_s"] = median(_start_seconds(runner) for _ in range(START_ROUNDS))
    return figures


def _medians(arms: dict[str, Callable[[], None]]) -> dict[str, float]:
    taken = defaultdict[str, list[float]](list)
    for _ in range(ROUNDS + 1):
        for name, work in arms.items():
            started = perf_counter()
            work()
            taken[name].append(perf_counter() - started)
    return {name: median(times[1:]) for name, times in taken.items()}


async def _run(pool: LocalPool, code: str) -> None:
    result = await pool.run(code)
    assert result.status is ToolStatus.ok, result


async def _latencies(pool: LocalPool, num_programs: int) -> list[float]:
    """Seconds of each program, `IN_FLIGHT` of them at a time."""
    places = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> float:
        async with places:
            started = perf_counter()
            await _run(pool, PROGRAMS["light"])
            return perf_counter() - started

    return await asyncio.gather(*(one() for _ in range(num_programs)))


async def _session_calls(pool: LocalPool) -> list[float]:
    session, taken = pool.session(), []
    await session.run("x = 1")
    for number in range(NUM_CALLS):
        started = perf_counter()
        result = await session.run("x += 1\nx", shows_value=True)
        taken.append(perf_counter() - started)
        assert result.value == f"{number + 2}\n", result
    await session.close()
    return taken


async def _session_mib(pool: LocalPool) -> float:
    """The median share of memory of sessions that have run one program and wait for the next."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    sessions = [pool.session() for _ in range(NUM_IDLE)]
    await asyncio.gather(*(session.run("x = 1") for session in sessions))
    idle = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    assert len(idle) >= NUM_IDLE, len(idle)
    shares = [_proportional_kib(process.pid) for process in idle]
    await asyncio.gather(*(session.close() for session in sessions))
    return median(shares) / 1024


def _proportional_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


async def _by_number(pool: LocalPool) -> Table:
    rows = []
    for size in SIZES:
        started = perf_counter()
        await _latencies(pool, size)
        rows.append([size, round(perf_counter() - started, 3)])
    each = [seconds / size for size, seconds in rows]
    reading = (
        f"Look at the seconds of a program: {1000 * each[-1]:.2f} ms of {SIZES[-1]} over {1000 * each[0]:.2f} ms of "
        f"{SIZES[0]}, {each[-1] / each[0]:.2f} x."
    )
    return Table(("programs", "s"), rows, reading)


def _subprocess(code: str) -> None:
    subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True)


def _start_seconds(runner: asyncio.Runner) -> float:
    started = perf_counter()
    pool = LocalSandbox(num_workers=1).start()
    taken = perf_counter() - started
    runner.run(pool.close())
    return taken
