"""The sandbox runs programs, and as many a second as a step will need."""

import asyncio
from time import perf_counter

from turnwise.env.sandbox.interface import SandboxPool
from turnwise.preflight.finding import Finding
from turnwise.types import Isolation, ToolStatus

NUM_PROGRAMS = 48
SLOW_STEP_S = 60.0
"""Seconds of a step for programs alone from which on a line says so."""


async def check_programs(pool: SandboxPool, max_programs: int, finding: Finding) -> None:
    """Runs short programs side by side, each with an answer of its own.

    Args:
        pool: The sandbox.
        max_programs: That a step can run at most: one for every turn.
        finding: Where to say it.
    """
    if pool.isolation is Isolation.unsafe:
        finding.warn("programs of the policy are not isolated", "see env.sandbox in docs/ARCHITECTURE.md")
    else:
        finding.note(f"isolation of the policy's programs: {pool.isolation.words}")
    if pool.isolation in (Isolation.A, Isolation.B):
        finding.note("a program that tries to get out failed in all its ways when the sandbox started")
    started = perf_counter()
    results = await asyncio.gather(*(pool.run(f"print({number} * 7)") for number in range(NUM_PROGRAMS)))
    rate = NUM_PROGRAMS / (perf_counter() - started)
    wrong = [
        (number, one)
        for number, one in enumerate(results)
        if one.status is not ToolStatus.ok or one.stdout.strip() != str(number * 7)
    ]
    for number, one in wrong[:1]:
        told = " ".join(one.output.split())[:200]
        finding.fail(
            f"{len(wrong)} of {NUM_PROGRAMS} programs went wrong; print({number} * 7) ended {one.status}: {told!r}",
            "see the limits of env.sandbox (memory_mb, wall_s, cpu_s) and whether the machine is overloaded",
        )
    needed_s = max_programs / rate
    line = f"{rate:.0f} programs a second; a step with one in each turn, {max_programs}, needs {needed_s:.1f} s of it"
    if needed_s > SLOW_STEP_S:
        finding.warn(line, "more env.sandbox.num_workers, as many as there are processors")
    else:
        finding.note(line)
