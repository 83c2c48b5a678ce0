"""Programs of the policy in the local sandbox, by tier, beside a plain subprocess for each of them."""

import asyncio
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from time import perf_counter

from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox
from turnwise.types import ToolStatus

PROGRAMS = {
    "light": "print(sum(range(100)))",
    "sympy": "import numpy, sympy\nprint(sympy.factorint(2**32 + 1), numpy.eye(2).sum())",
}
ROUNDS = 15
MANY = 200
"""Programs that are given to two workers at once."""
START_ROUNDS = 5


def measure() -> dict[str, float]:
    """Median seconds of one program, how many times longer a subprocess takes, and what isolation costs.

    `over_unsafe` is the time in a tier over that of the same worker without isolation; `start_s` is what a run waits
    for the canaries of the best tier.
    """
    pools = {tier: LocalPool(LocalSandbox(num_workers=1), tier) for tier in Tier}
    figures: dict[str, float] = {}
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
        for pool in pools.values():
            runner.run(pool.close())
        pool = LocalPool(LocalSandbox(num_workers=2), Tier.A)
        runner.run(_run(pool, PROGRAMS["light"]))
        started = perf_counter()
        runner.run(_many(pool))
        figures["two_workers_each_s"] = (perf_counter() - started) / MANY
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


async def _many(pool: LocalPool) -> None:
    await asyncio.gather(*(_run(pool, PROGRAMS["light"]) for _ in range(MANY)))


def _subprocess(code: str) -> None:
    subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True)


def _start_seconds(runner: asyncio.Runner) -> float:
    started = perf_counter()
    pool = LocalSandbox(num_workers=1).start()
    taken = perf_counter() - started
    runner.run(pool.close())
    return taken
